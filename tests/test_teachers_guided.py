"""Teachers from guided-diffusion, improved-diffusion and consistency_models.

`golden/guided.npz` holds outputs of their own networks and denoisers, with parameters
by rule; `tests/guided_goldens.py` made it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from progdist import parallel
from progdist.checkpoint import CheckpointError
from progdist.checkpoint.weights import read_torch
from progdist.errors import UsageError
from progdist.model import bind, param_template
from progdist.nets import timesteps
from progdist.nets.conditioning import Conditioning
from progdist.nets.guided_unet import preconditioning
from progdist.nets.types import Timesteps
from progdist.sampling import cards
from progdist.teachers import Options, load, published, read_teacher
from tests import converting, torch_files
from tests.diffusers_models import FAST
from tests.guided_goldens import CASES, SIZE
from tests.guided_parameters import parameters

GOLDEN = np.load(Path(__file__).parent / "golden" / "guided.npz")


def arrays_of(name):
    return parameters(json.loads(str(GOLDEN[f"{name}/shapes"])))


def facts_of(name):
    return CASES[name][2] | {"image_size": SIZE}


def teacher_of(name, path, **changes):
    """The teacher in a case's file."""
    source = torch_files.write(path / "model.pt", arrays_of(name))
    return read_teacher(source, Options(**facts_of(name) | changes))


def denoised(teacher, z, logsnr, label):
    """The prediction of a teacher, compiled as fast as can be."""
    model = cards.model_of(teacher.card, "a test")
    template = param_template(model, parallel.make_mesh(jax.devices()[:1]))
    denoise = bind(model, load(teacher, template, "a test"))
    run = jax.jit(denoise, compiler_options=FAST)
    return run(z, np.float32(logsnr), Conditioning(np.int32(label)))


def close(found, expected):
    """Equal to 1e-5 of the scale."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def inputs(name):
    fields = "z", "label", "output"
    return [GOLDEN[f"{name}/{field}"] for field in fields]


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[0] != "cm"])
def test_eps_is_that_of_the_source(name, tmp_path):
    teacher = teacher_of(name, tmp_path)
    z, label, expected = inputs(name)
    # The noise levels from their own betas.
    alpha2 = GOLDEN[f"{name}/alpha2"]
    logsnr = np.log(alpha2) - np.log1p(-alpha2)
    close(denoised(teacher, z, logsnr, label).eps, expected)
    card = teacher.card
    assert (card["output"], card["schedule"]) == ("eps", "timesteps")
    assert (card["phase"], card["origin"]) == (0, "model.pt")


@pytest.mark.parametrize(
    ("name", "phase", "num_steps"), [("edm", 0, 40), ("consistency", 1, 1)]
)
def test_x_is_that_of_the_source(name, phase, num_steps, tmp_path):
    teacher = teacher_of(name, tmp_path)
    z, label, expected = inputs(name)
    logsnr = GOLDEN[f"{name}/logsnr"]
    close(denoised(teacher, z, logsnr, label).x, expected)
    card = teacher.card
    assert (card["phase"], card["num_steps"]) == (phase, num_steps)
    assert (card["output"], card["schedule"]) == ("x", "karras")


@pytest.mark.slow
def test_the_command_converts_a_file(tmp_path, monkeypatch):
    teacher = teacher_of("rescaled", tmp_path)
    source, facts = tmp_path / "model.pt", facts_of("rescaled")
    model = converting.converted(source, tmp_path / "out", facts, monkeypatch)
    assert model.card.items() >= json.loads(json.dumps(teacher.card)).items()
    jax.tree.map(np.testing.assert_array_equal, model.params, teacher.read())


@pytest.mark.slow
def test_a_converted_model_draws_images(tmp_path, monkeypatch):
    teacher_of("consistency", tmp_path)
    source, facts = tmp_path / "model.pt", facts_of("consistency")
    model = converting.converted(source, tmp_path / "out", facts, monkeypatch)
    assert model.sample(2, seed=1).shape == (2, SIZE, SIZE, 3)


@pytest.mark.parametrize("name", CASES)
def test_the_network_is_found(name, tmp_path):
    card = teacher_of(name, tmp_path).card
    settings = CASES[name][1]
    ch = settings["model_channels"]
    net = card["net"]
    assert net["ch"] == ch
    assert net["channels"] == tuple(int(m * ch) for m in settings["channel_mult"])
    assert net["num_res_blocks"] == settings["num_res_blocks"]
    assert net["attn_factors"] == settings["attention_resolutions"]
    assert net["num_classes"] == settings.get("num_classes", 0)
    assert net["resblock_updown"] == settings.get("resblock_updown", False)
    assert net["scale_shift_norm"] == settings.get("use_scale_shift_norm", False)


@pytest.mark.parametrize(
    ("name", "fact", "flag"),
    [
        ("legacy", "betas", "--betas is missing"),
        ("legacy", "num_heads", "--num_heads or --head_dim is missing"),
        ("legacy", "attention_order", "--attention_order is missing"),
        ("legacy", "image_size", "--image_size is missing"),
        ("rescaled", "rescale_timesteps", "--rescale_timesteps or --norescale_"),
        ("edm", "precondition", "--precondition is missing"),
    ],
)
def test_a_missing_fact_is_asked_for(name, fact, flag, tmp_path, capsys, monkeypatch):
    source = torch_files.write(tmp_path / "model.pt", arrays_of(name))
    facts = {k: v for k, v in facts_of(name).items() if k != fact}
    said = converting.refusal(source, tmp_path / "out", capsys, monkeypatch, **facts)
    assert said.startswith(flag)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "num_heads=5: must be a divisor of the channels with"),
        ({"image_size": 9}, "channels=(32, 64): must be such that 2 divides"),
        ({"output": "both"}, "--output=both: must be eps or x or v with"),
        ({"betas": "trained"}, "--betas=trained: 'trained' is not one of linear"),
        ({"precondition": "edm"}, "--betas: does not apply; a network with --precondi"),
        ({"head_dim": 8}, "--num_heads: does not apply beside --head_dim; pass one"),
        ({"num_timesteps": 1}, "--rescale_timesteps or --norescale_timesteps"),
    ],
)
def test_facts_that_do_not_fit_are_refused(
    changes, message, tmp_path, capsys, monkeypatch
):
    source = torch_files.write(tmp_path / "model.pt", arrays_of("legacy"))
    facts = facts_of("legacy") | changes
    said = converting.refusal(source, tmp_path / "out", capsys, monkeypatch, **facts)
    assert message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "eps"}, "--output=eps: must be x with --precondition=edm"),
        ({"rescale_timesteps": False}, "--norescale_timesteps: does not apply; a net"),
        ({"attention_order": "new"}, "--attention_order: does not apply; "),
    ],
)
def test_facts_of_other_networks_are_refused(changes, message, tmp_path):
    with pytest.raises(UsageError, match=f"^{message}"):
        teacher_of("edm", tmp_path, **changes)


def test_a_file_of_another_network_is_none_of_these(tmp_path):
    arrays = {"conv1.weight": np.zeros((3, 3), np.float32)}
    source = torch_files.write(tmp_path / "model.pt", arrays)
    with pytest.raises(CheckpointError) as caught:
        read_teacher(source, Options(**facts_of("legacy")))
    assert str(caught.value) == (
        f"{source}: is no network of guided-diffusion, improved-diffusion or "
        "consistency_models: it lacks input_blocks.0.0.weight"
    )


def test_upsamplers_and_classifiers_are_refused(tmp_path, capsys, monkeypatch):
    arrays = arrays_of("legacy")
    for name, shape in (
        ("input_blocks.0.0", (32, 6, 3, 3)),
        ("out.2", (1000, 32, 1, 1)),
    ):
        changed = arrays | {f"{name}.weight": np.zeros(shape, np.float32)}
        source = torch_files.write(tmp_path / "model.pt", changed)
        facts = facts_of("legacy")
        out = tmp_path / "out"
        said = converting.refusal(source, out, capsys, monkeypatch, **facts)
        assert "upsampler or a classifier" in said


def test_published_files_need_no_flags(tmp_path):
    source = tmp_path / "64x64_diffusion.pt"
    torch_files.write(source, arrays_of("legacy"))
    given = Options(num_heads=2, image_size=16)  # 64 channels a head are too many
    card = read_teacher(source, given).card
    assert card["net"]["timesteps"]["betas"] == "squaredcos_cap_v2"
    assert (card["net"]["num_heads"], card["net"]["head_dim"]) == (2, 0)
    assert card["image_shape"] == [16, 16, 3]
    facts = published.options_of("cd_cat256_lpips.pt")
    assert (facts.precondition, facts.image_size) == ("consistency", 256)
    assert facts.attention_order == "new"
    assert published.options_of("model.pt") == Options()


@pytest.mark.parametrize("name", ["legacy", "rescaled"])
def test_the_noise_levels_are_those_of_the_source(name):
    facts, alpha2 = CASES[name][2], GOLDEN[f"{name}/alpha2"]
    count = facts.get("num_timesteps", 1000)
    ends = {"beta_start": 0.1 / count, "beta_end": 20 / count}
    levels = timesteps.logsnr_of(Timesteps(facts["betas"], count, **ends))
    found = 1 / (1 + np.exp(-levels[GOLDEN[f"{name}/level"]]))
    np.testing.assert_allclose(found, alpha2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["edm", "consistency"])
def test_preconditioning_keeps_the_variance(kind):
    """The input has variance 1, and so has what F is to give, for data of sd 1/2."""
    logsnr = jnp.linspace(-8, 12, 9)
    factors = preconditioning(logsnr, kind)
    variance = jax.nn.sigmoid(logsnr) * 0.25 + jax.nn.sigmoid(-logsnr)
    np.testing.assert_allclose(factors.input**2 * variance, 1, rtol=1e-5)
    alpha, sigma = jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.exp(-logsnr / 2)
    if kind == "edm":
        error = (1 - factors.skip * alpha) ** 2 * 0.25 + (
            factors.skip * alpha * sigma
        ) ** 2
        np.testing.assert_allclose(error, factors.output**2, rtol=2e-4)


def test_a_consistency_model_returns_its_input_at_the_smallest_noise():
    factors = preconditioning(jnp.array([-2 * np.log(0.002)]), "consistency")
    np.testing.assert_allclose(factors.skip, np.sqrt(1 + 0.002**2), rtol=1e-6)
    np.testing.assert_allclose(factors.output, 0, atol=1e-6)


def test_parameters_are_views_of_the_file(tmp_path):
    """But for q, k and v in another order, so that memory holds the file once."""
    teacher = teacher_of("legacy", tmp_path)
    first, second = (flatten_dict(teacher.read()) for _ in range(2))
    for path, leaf in first.items():
        assert np.shares_memory(leaf, second[path]) == (path[-2] != "qkv")


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_are_those_of_pytorch(is_zip, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = arrays_of("edm")
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pt"
    torch_files.write(ours, arrays)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(tensors, theirs, _use_new_zipfile_serialization=is_zip)
    found, loaded = read_torch(theirs), torch.load(ours, weights_only=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(loaded[name].numpy(), array)


def test_dropout_and_bfloat16_run(tmp_path):
    from progdist.nets.blocks import Dropout
    from progdist.nets.guided_settings import GuidedUNetConfig
    from progdist.nets.networks import make_net

    config = GuidedUNetConfig(num_classes=3).smoke((8, 8, 3))
    config.dtype, config.remat = "bfloat16", "blocks"
    config.check((8, 8, 3))
    net = make_net(config, 3)
    z, logsnr = jnp.ones((2, 8, 8, 3)), jnp.zeros(2)
    inputs = z, logsnr, Conditioning(jnp.zeros(2, int))
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    dropout = Dropout(jax.random.split(jax.random.key(1), 2), 0.5)
    found = jax.eval_shape(net.apply, shapes, *inputs, dropout)
    assert (found.shape, found.dtype) == (z.shape, jnp.float32)
