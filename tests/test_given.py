"""A given teacher: taken as it is, or reparameterized in a phase of its own."""

import dataclasses
import json
import shutil
import textwrap

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import progdist
from progdist import checkpoint, preflight
from progdist.commands import train
from progdist.config import ConfigError, load_preset, plan_of
from progdist.data import Batch
from progdist.diffusion.schedules import Cosine, Knots, alpha_sigma, over_pixels
from progdist.model import bind, param_shapes
from progdist.nets.conditioning import Conditioning
from progdist.plan import Phase
from progdist.sampling import cards
from progdist.trainer import given
from progdist.trainer.run import run
from progdist.trainer.state import init_state, make_optimizer
from progdist.trainer.step import Draws, Round, make_distill_loss
from tests import tiny
from tests.commands import answer

STEPS = [(0, 4), (1, 2), (2, 1)]  # phase and N
MEAN, VARIANCE = 0.3, 0.04  # of the function's data, N(MEAN, VARIANCE I)


def student_config(**changes):
    config = load_preset("digits", "smoke")
    config.evaluation.enabled = False
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A random teacher of output eps, as a model directory."""
    path = tmp_path_factory.mktemp("teacher") / "eps"
    config = student_config(parameterization="eps")
    model = preflight.make_model(config)
    leaves, tree = jax.tree.flatten(param_shapes(model))
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 0.05, leaf.shape).astype("float32") for leaf in leaves]
    source = preflight.open_source(config)
    card = cards.make_card(config, Phase("base", 0, 1000, 0, 0, 8, 3), source)
    card |= {"origin": "a/b", "license": "cc-by-4.0"}
    params = jax.device_put(jax.tree.unflatten(tree, values))
    checkpoint.save_model(path, params, card)
    return path


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """A run from the teacher of output eps to students of output v."""
    workdir = tmp_path_factory.mktemp("run")
    config = student_config(teacher=str(teacher), keep_checkpoints=10)
    config = given.settle(config, workdir)
    run(config, workdir)
    return config, workdir


def digest(workdir, phase, num_steps):
    card = checkpoint.read_card(checkpoint.model_dir(workdir, phase, num_steps))
    return checkpoint.digest_of(card)


def test_a_teacher_of_another_output_gets_a_phase_of_its_own(teacher, tmp_path):
    before = student_config(teacher=str(teacher))
    settled = given.settle(before, tmp_path)
    assert settled == dataclasses.replace(before, reparameterize=True)
    phases = plan_of(settled)
    assert [(p.kind, p.num_steps, p.num_updates, p.passes) for p in phases] == [
        ("reparameterize", 4, 10, 4),
        ("distill", 2, 10, 5),
        ("distill", 1, 10, 5),
    ]


@pytest.mark.parametrize(
    ("changes", "reparameterize"),
    [
        ({"parameterization": "eps"}, False),
        ({"parameterization": "eps", "student": "teacher"}, False),
        ({"student": "teacher"}, True),
        ({"parameterization": "both"}, True),
    ],
)
def test_only_another_network_or_output_is_reparameterized(
    teacher, tmp_path, changes, reparameterize
):
    settled = given.settle(student_config(teacher=str(teacher), **changes), tmp_path)
    assert settled.reparameterize == reparameterize
    wider = student_config(teacher=str(teacher), **changes)
    wider.net = dataclasses.replace(wider.net, ch=2 * wider.net.ch)
    settled = given.settle(wider, tmp_path)
    takes_net = wider.student == "teacher"
    assert settled.reparameterize == (reparameterize or not takes_net)
    assert settled.net == (student_config().net if takes_net else wider.net)


def test_other_settings_of_the_same_network_need_no_phase(teacher, tmp_path):
    config = student_config(teacher=str(teacher), parameterization="eps")
    config.net = dataclasses.replace(config.net, dtype="bfloat16", remat="blocks")
    assert not given.settle(config, tmp_path).reparameterize


def test_the_loss_is_the_error_to_the_teachers_x():
    """At t = i / N of the student's schedule, with weight 1."""
    teacher, student = tiny.model("eps"), tiny.model("v")
    loss = make_distill_loss(student, teacher, weight="constant", ratio=1)
    batch, num_steps = jax.tree.map(jnp.asarray, tiny.batch(4)), 8
    u = jnp.array([0.0, 0.3, 0.6, 0.99])
    eps = jax.random.normal(jax.random.key(1), batch.image.shape)
    state = init_state(tiny.params(0), make_optimizer(), keep_ema=False)
    round_ = Round(tiny.params(1), jnp.int32(8), jnp.int32(1), jax.random.key(0))
    each = loss(state, round_, batch, Draws(u, eps, jax.random.split(round_.key, 4)))
    logsnr = Cosine()((jnp.floor(u * num_steps) + 1) / num_steps)
    alpha, sigma = alpha_sigma(over_pixels(logsnr, eps))
    z = alpha * batch.image + sigma * eps
    label = Conditioning(batch.label)
    target = bind(teacher, tiny.params(1))(z, logsnr, label).x
    ours = bind(student, tiny.params(0))(z, logsnr, label).x
    expected = jnp.mean((target - ours) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(each.loss, expected, rtol=2e-5)


def test_the_run_goes_through_the_phase_to_its_students(finished):
    config, workdir = finished
    assert sorted(checkpoint.finished_models(workdir).items()) == [
        (0, 4),
        (1, 2),
        (2, 1),
    ]
    card = cards.read_card(checkpoint.model_dir(workdir, 0, 4))
    assert (card["output"], card["num_steps"]) == ("v", 4)
    recorded = json.loads((workdir / "config.json").read_text())
    assert recorded["reparameterize"] is True
    plan = json.loads((workdir / "plan.json").read_text())
    assert [phase["kind"] for phase in plan] == ["reparameterize", "distill", "distill"]
    assert given.settle(config, workdir) == config


@pytest.mark.slow
def test_an_interrupted_phase_resumes_bit_equal(finished, tmp_path):
    config, workdir = finished
    again = tmp_path / "w"
    shutil.copytree(workdir, again)
    shutil.rmtree(again / "models")
    for path in (again / "checkpoints").iterdir():
        if int(path.name) > 5:  # of the 10 updates of phase 0
            shutil.rmtree(path)
    run(config, again)
    for phase, num_steps in STEPS:
        assert digest(again, phase, num_steps) == digest(workdir, phase, num_steps)


@pytest.mark.slow
def test_a_student_of_the_same_network_starts_from_the_teacher(teacher, tmp_path):
    config = student_config(teacher=str(teacher), student="teacher")
    config.base.num_updates, config.base.learning_rate = 1, 1e-12
    config.base.ema_decay = 0.0
    config.distill.start_steps = 1
    run(given.settle(config, tmp_path), tmp_path)
    template = jax.tree.map(jnp.zeros_like, param_shapes(preflight.make_model(config)))
    ours = checkpoint.load_model(checkpoint.model_dir(tmp_path, 0, 1), template)
    theirs = checkpoint.load_model(teacher, template)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), ours, theirs)


def test_beyond_its_schedule_a_teacher_answers_as_at_its_end():
    """Else x̂ = (z - sigma eps) / alpha of an output eps has a loss of 10^4 there."""

    class Eps(nn.Module):
        """eps = z, whose x̂ of pure noise is wrong by as much as eps is."""

        @nn.compact
        def __call__(self, z, logsnr, conditioning=None, dropout=None):
            return 1.01 * z

    teacher = tiny.model("eps", Eps())._replace(schedule=Knots((5.0, -10.0)))
    student, u = tiny.model("x"), jnp.array([0.2, 0.999])
    images = jnp.zeros((2, *tiny.SHAPE))
    draws = Draws(u, jnp.ones_like(images), jax.random.split(jax.random.key(0), 2))
    state = init_state(tiny.params(0), make_optimizer(), keep_ema=False)
    round_ = Round({}, jnp.int32(4), jnp.int32(1), jax.random.key(0))
    batch = Batch(images, jnp.zeros(2, jnp.int32))
    losses = [
        make_distill_loss(
            student, teacher, weight="constant", ratio=1, is_given=is_given
        )(state, round_, batch, draws).loss
        for is_given in (False, True)
    ]
    assert losses[0][1] > 1e4
    assert losses[1][1] < 10
    np.testing.assert_array_equal(losses[0][0], losses[1][0])  # within its schedule


def test_the_students_keep_the_configured_dtype_and_remat(teacher, tmp_path):
    config = student_config(teacher=str(teacher), student="teacher")
    config.net = dataclasses.replace(config.net, dtype="bfloat16", remat="blocks")
    net = given.settle(config, tmp_path).net
    assert (net.dtype, net.remat) == ("bfloat16", "blocks")


def test_once_phase_0_is_done_its_teacher_may_be_gone(finished, tmp_path):
    config, workdir = finished
    shutil.copytree(workdir, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "models" / "phase_02_steps_1")
    shutil.rmtree(tmp_path / "w" / "checkpoints" / "30")
    gone = dataclasses.replace(config, teacher=str(tmp_path / "gone"))
    run(gone, tmp_path / "w", override=True)
    assert digest(tmp_path / "w", 2, 1) == digest(workdir, 2, 1)


def test_students_inherit_origin_and_license(finished):
    _, workdir = finished
    for phase, num_steps in STEPS:
        card = cards.read_card(checkpoint.model_dir(workdir, phase, num_steps))
        assert (card["origin"], card["license"]) == ("a/b", "cc-by-4.0")


def test_a_folder_that_holds_a_model_is_a_teacher(teacher, tmp_path):
    """As an exported one does."""
    from progdist.export.formats import write_safetensors

    model = progdist.load(teacher)
    params = jax.tree.map(np.asarray, model.params)
    card = {k: v for k, v in model.card.items() if k not in ("content", "distances")}
    write_safetensors(tmp_path / "params.safetensors", params, card)
    config = student_config(teacher=str(tmp_path), parameterization="eps")
    settled = given.settle(config, tmp_path / "w")
    assert not settled.reparameterize
    source = preflight.open_source(config)
    given.check(settled, given.open_given(settled), source)


def test_a_model_whose_card_names_no_network_must_fit(tmp_path):
    """As one of a version before 0.3.0 outside its workdir."""
    config = student_config(teacher=str(tmp_path / "old"))
    shapes = param_shapes(preflight.make_model(config))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    checkpoint.save_model(tmp_path / "old", params, {"num_steps": 4, "phase": 0})
    settled = given.settle(config, tmp_path / "w")
    assert not settled.reparameterize
    opened = given.open_given(settled)
    given.check(settled, opened, preflight.open_source(config))
    template = given.load(settled, opened, jax.tree.map(jnp.ones_like, params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(template))


FUNCTION = f"""
    import pathlib, jax, jax.numpy as jnp

    pathlib.Path({{marker!r}}).touch()

    def make():
        def denoise(z, logsnr, conditioning):
            '''The posterior mean of N({MEAN}, {VARIANCE} I) data.'''
            l = logsnr[:, None, None, None]
            a, s = jnp.sqrt(jax.nn.sigmoid(l)), jnp.sqrt(jax.nn.sigmoid(-l))
            gain = a * {VARIANCE} / (a**2 * {VARIANCE} + s**2)
            return {MEAN} + gain * (z - a * {MEAN})
        return denoise

    def none():
        return 7

    def flat():
        return lambda z, logsnr, conditioning: logsnr
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with a closed-form denoiser; leaves a mark when it is imported."""
    marker = tmp_path / "marker"
    text = textwrap.dedent(FUNCTION.format(marker=str(marker)))
    (tmp_path / "of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "of_mine", raising=False)
    return marker


def test_a_function_is_a_teacher(module, tmp_path):
    """The loss of the student against it falls."""
    config = student_config(teacher="of_mine:make")
    config.base.num_updates, config.base.learning_rate = 60, 5e-3
    config.base.weight = "snr_plus_one"
    config.distill.start_steps = 1
    workdir = tmp_path / "w"
    settled = given.settle(config, workdir)
    assert settled.reparameterize
    run(settled, workdir, may_import=True)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if row["phase"] == 0]
    assert losses[-1] < 0.75 * losses[0]
    assert module.exists()


def test_no_workdir_imports_a_function(module, tmp_path, capsys, monkeypatch):
    config = given.settle(student_config(teacher="of_mine:make"), tmp_path)
    workdir = tmp_path / "w"
    workdir.mkdir()
    text = json.dumps(dataclasses.asdict(config))
    (workdir / "config.json").write_text(text)
    code, err = answer(train, str(workdir), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "config.teacher=of_mine:make: is a function, which is imported" in err
    assert err.count("\n") == 1
    assert not module.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_mine:none", "returns a int; must return denoise"),
        ("of_mine:missing", "failed with AttributeError"),
        ("of_mine:flat", r"returns float32\[2\] for z of float32"),
        ("no_such_module_here:make", "failed with ModuleNotFoundError"),
    ],
)
def test_a_function_that_fails_is_one_line(module, tmp_path, name, message):
    config = given.settle(student_config(teacher=name), tmp_path)
    with pytest.raises(ConfigError, match=message) as failed:
        given.open_given(config, may_import=True)
    assert "\n" not in str(failed.value)


def test_a_function_has_to_be_learned(module, tmp_path):
    config = student_config(teacher="of_mine:make")
    opened = given.open_given(config, may_import=True)
    with pytest.raises(ConfigError, match="reparameterize=False: must be True"):
        given.check(config, opened, preflight.open_source(config))


@pytest.mark.parametrize("name", ["", "of_mine:make"])
def test_students_take_a_network_only_from_a_model(name, tmp_path):
    config = student_config(teacher=name, student="teacher")
    with pytest.raises(ConfigError, match=r"config\.student='teacher': must be 'net'"):
        given.settle(config, tmp_path)


def test_a_teacher_to_reparameterize_must_fit_the_images(teacher, tmp_path):
    config = student_config(teacher=str(teacher))
    config.data = dataclasses.replace(
        config.data, name="random", image_shape=(16, 16, 1)
    )
    settled = given.settle(config, tmp_path)
    with pytest.raises(ConfigError, match=r"its image_shape is \[8, 8, 1\]"):
        run(settled, tmp_path / "w")
    assert not (tmp_path / "w").exists()
