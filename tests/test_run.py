"""The whole job, in small: trained, interrupted, resumed, drawn from."""

import json
import shutil
from contextlib import nullcontext

import flax.serialization
import jax
import numpy as np
import pytest

import progdist
from progdist import checkpoint, parallel, report
from progdist.commands import devices, evaluate, train
from progdist.config import ConfigError, load_preset
from progdist.config.check import check
from progdist.errors import NonFiniteError
from progdist.model import init_params, param_shapes
from progdist.preflight import check_teacher, make_model
from progdist.report.read.run import load
from progdist.trainer import conclusion, recipes, resume
from progdist.trainer.run import run as run_config
from tests.workdirs import write_jsonl

NAMES = [
    "digits",
    "fashion_mnist",
    "fashion_mnist_quick",
    "cifar10",
    "imagenet64",
    "lsun_bedroom",
    "lsun_church",
]
STEPS = {0: 4, 1: 2, 2: 1}  # phase to N, in the smoke variant


TRAIN_STEPS = []  # of the finished run, base and distill


def run(workdir, **changes):
    config = load_preset("digits", "smoke")
    for name, value in changes.items():
        setattr(config, name, value)
    check(config)
    run_config(config, workdir)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        make = recipes.steps.make_train_step
        patch.setattr(
            recipes.steps,
            "make_train_step",
            lambda *args, **settings: (
                TRAIN_STEPS.append(make(*args, **settings)) or TRAIN_STEPS[-1]
            ),
        )
        run(workdir)
    return workdir


def test_each_kind_of_step_is_compiled_once(finished):
    """Also across the swap, where a state that is placed otherwise would cost one."""
    assert [train_step._cache_size() for train_step in TRAIN_STEPS] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_smoke_variant_runs(tmp_path, name):
    config = load_preset(name, "smoke")
    config.precision.sampling = "highest"
    run_config(config, tmp_path)
    last = rows(tmp_path, "eval.jsonl")[-1]
    assert (last["num_steps"], last["precision"]) == (1, "highest")


def rows(workdir, name):
    """Returns the rows of a file, without the time of sampling."""
    found = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    for row in found:
        row.pop("milliseconds", None)
    return found


def params(workdir, phase):
    config = load_preset("digits", "smoke")
    template = init_params(make_model(config), 1, parallel.make_mesh())
    path = checkpoint.model_dir(workdir, phase, STEPS[phase])
    return checkpoint.load_model(path, template)


def test_metrics_have_a_row_for_every_interval(finished):
    found = rows(finished, "metrics.jsonl")
    assert [r["global_step"] for r in found] == [5, 10, 15, 20, 25, 30]
    assert [r["step"] for r in found] == [5, 10] * 3
    assert [(r["phase"], r["num_steps"]) for r in found[::2]] == list(STEPS.items())
    for row in found:
        assert set(row) == {
            "global_step",
            "phase",
            "step",
            "num_steps",
            "loss",
            "learning_rate",
            "grad_norm",
            "skipped",
            "steps_per_second",
            "tflops_per_second",
            "utilisation",
            "loss_by_logsnr",
        }
        there = [loss for loss in row["loss_by_logsnr"] if loss is not None]
        lowest, highest = min(there) * (1 - 1e-5), max(there) * (1 + 1e-5)
        assert lowest <= row["loss"] <= highest  # to the digits in the file


def test_every_phase_is_measured_with_its_baselines(finished):
    found = rows(finished, "eval.jsonl")
    keys = [(r["phase"], r["role"], r["sampler"], r["num_steps"]) for r in found]
    expected = [(0, "teacher", "ddim", 4), (0, "teacher", "ancestral", 4)]
    for phase, steps in ((1, 2), (2, 1)):
        expected.append((phase, "student", "ddim", steps))
        expected += [(0, "teacher", s, steps) for s in ("ddim", "ancestral")]
    assert keys == expected
    assert {(r["metric"], r["num_samples"]) for r in found} == {("FD-pixels", 32)}
    assert all(r["value"] > 0 for r in found)


def test_the_command_that_measures_finds_the_runs_rows_and_comes_to_the_same(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    of_the_run = rows(workdir, "eval.jsonl")
    flags = ["", f"--workdir={workdir}", "--round=0,1", "--num_steps=2"]
    evaluate.main(flags)
    assert capsys.readouterr().out.count("already evaluated") == 2
    assert rows(workdir, "eval.jsonl") == of_the_run
    (workdir / "eval.jsonl").unlink()
    evaluate.main(flags)
    again = rows(workdir, "eval.jsonl")
    for row in again:
        row["value"] = pytest.approx(row["value"], rel=1e-6)
    assert len(again) == 2
    assert all(row in of_the_run for row in again)


def test_pictures_and_models_are_left(finished):
    for name in ("quality", "training", "trajectories"):
        assert (finished / "figures" / f"{name}.png").stat().st_size > 1000
    assert (finished / "samples" / "by_num_steps.png").stat().st_size > 1000
    for phase, steps in STEPS.items():
        with np.load(finished / "samples" / f"phase_{phase:02d}.npz") as drawn:
            assert drawn["arr_0"].shape == (10, 8, 8, 1)
            assert drawn["num_steps"] == steps
        card = checkpoint.read_card(checkpoint.model_dir(finished, phase, steps))
        assert (card["num_steps"], card["output"]) == (steps, "v")
    assert list((finished / "tensorboard").iterdir())
    assert (finished / "report.html").read_text().count("<svg") == 9


def test_every_model_draws_by_itself_and_knows_its_distances(finished):
    measured = rows(finished, "eval.jsonl")
    for phase, steps in STEPS.items():
        model = progdist.load(checkpoint.model_dir(finished, phase, steps))
        assert (model.num_steps, model.card["data"]["count"]) == (steps, 1797)
        ours = [row for row in measured if row["trained_steps"] == steps]
        assert model.card["distances"] == ours
        assert len(ours) == (1 if phase else 6)


def test_starts_and_ends_are_noted(finished):
    found = rows(finished, "starts.jsonl")
    assert (found[0]["global_step"], found[1]["end"]) == (0, "done")


def test_a_round_changes_its_model(finished):
    for phase in (1, 2):
        before, after = params(finished, phase - 1), params(finished, phase)
        same = jax.tree.map(np.array_equal, before, after)
        assert not any(jax.tree.leaves(same))


def test_a_finished_run_is_left_as_it_is_and_shows_its_facts_and_its_table(
    finished, tmp_path, capsys
):
    """Results, and they alone, go to standard output."""
    workdir = tmp_path / "of mine"
    shutil.copytree(finished, workdir)
    before = rows(workdir, "metrics.jsonl"), rows(workdir, "eval.jsonl")
    capsys.readouterr()
    run(workdir)
    assert (rows(workdir, "metrics.jsonl"), rows(workdir, "eval.jsonl")) == before
    out, err = capsys.readouterr()
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in err.splitlines()}
    assert facts["data"].startswith("digits (train): 1,797 images at 8x8x1, 10 classes")
    assert facts["network"].startswith("UNet, 38,452 parameters")
    assert facts["devices"] == "8 x cpu"
    assert facts["plan"] == "4 → 1 steps in 2 rounds, 30 updates"
    assert "resuming at update 10 of phase 2 (round 2: 1 step)" in err
    assert out.split()[0] == "FD-pixels"  # of the table; there is nothing to evaluate
    *_, samples, figures, page, sample, board = err.splitlines()
    paths = [line.split(maxsplit=1)[1] for line in (samples, figures, page)]
    assert paths == [f"{workdir}/{x}" for x in ("samples", "figures", "report.html")]
    assert f"progdist sample '{workdir}' --steps=1 --num=64 --out=grid.png" in sample
    assert f"tensorboard --logdir='{workdir}'  # pip install tensorboard" in board


def test_a_finished_run_is_shown_again_without_being_opened(
    finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("progdist.trainer.run.run", None)
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    train.main(["", str(workdir), "--config=digits:smoke"])
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    out, err = capsys.readouterr()
    assert "finished: 4 → 1 steps in 2 rounds, 30 updates" in err
    assert "student / " in out
    for name in ("figures/quality.png", "report.html"):
        (workdir / name).unlink()
        train.main(["", str(workdir)])
        assert (workdir / name).exists()
    (workdir / "eval.jsonl").touch()  # as if there were more rows
    page = (workdir / "report.html").stat().st_mtime_ns
    train.main(["", str(workdir)])
    assert (workdir / "report.html").stat().st_mtime_ns > page


def test_a_run_is_finished_when_nothing_is_left_to_do(finished, tmp_path):
    config = load_preset("digits", "smoke")
    assert conclusion.is_finished(config, finished)
    assert not conclusion.is_finished(config, tmp_path)
    config.evaluation.metrics = ("kid",)
    assert not conclusion.is_finished(config, finished)
    config = load_preset("digits", "smoke")
    for name, lost in (("checkpoints", 30), ("eval", 3), ("starts", 1)):
        workdir = tmp_path / name
        shutil.copytree(finished, workdir)
        if name == "checkpoints":
            shutil.rmtree(workdir / name / str(lost))
        else:
            path = workdir / f"{name}.jsonl"
            path.write_text("".join(path.read_text().splitlines(True)[:-lost]))
        assert not conclusion.is_finished(config, workdir)


def test_lost_rows_of_metrics_are_told_and_noted(finished, tmp_path, capsys):
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    (workdir / "metrics.jsonl").unlink()
    run(workdir)
    last = checkpoint.snapshot_steps(workdir / "checkpoints")[0]
    assert f"lacks rows of updates 1 to {last}" in " ".join(
        capsys.readouterr().err.split()
    )
    assert rows(workdir, "starts.jsonl")[-2]["missing_rows"] == [[0, last]]


@pytest.mark.parametrize(
    ("steps", "until", "gaps"),
    [
        ([], 0, []),
        ([], 9, []),  # saved by a signal, before the first row
        ([], 20, [(0, 20)]),
        ([10, 20, 23, 33], 33, []),
        ([10, 20, 23, 33], 20, []),
        ([10, 30, 40, 50], 50, [(10, 30)]),
        ([20, 30, 40], 60, [(0, 20), (40, 60)]),
        ([40, 80, 120], 121, []),  # of a start that wrote fewer rows
    ],
)
def test_a_gap_in_the_rows_is_longer_than_an_interval(steps, until, gaps, tmp_path):
    row = {"phase": 0, "num_steps": 1, "loss": 1.0, "learning_rate": 1.0}
    steps = [row | {"global_step": step, "step": step} for step in steps]
    write_jsonl(tmp_path / "metrics.jsonl", steps)
    assert resume.missing_rows(tmp_path, until, log_every=10) == gaps


def test_without_evaluation_nothing_is_drawn_and_metrics_may_change_later(
    finished, tmp_path, capsys
):
    """The end of the last phase is done again, since its rows are gone."""
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "samples")
    (workdir / "eval.jsonl").unlink()
    config = load_preset("digits", "smoke")
    config.evaluation.enabled = False
    run_config(config, workdir)
    assert not (workdir / "samples").exists()
    assert not (workdir / "eval.jsonl").exists()
    assert load(workdir).is_finished
    assert "<svg" in (workdir / "report.html").read_text()
    config = load_preset("digits", "smoke")
    config.evaluation.metrics = ("kid", "fd")
    run_config(config, workdir)
    found, before = rows(workdir, "eval.jsonl"), rows(finished, "eval.jsonl")
    assert [row for row in found if row["metric"] == "FD-pixels"] == before[-3:]
    assert {row["metric"] for row in found} == {"FD-pixels", "KID-pixels"}
    assert len(found) == 6


def test_a_given_teacher_skips_its_training(finished, tmp_path):
    run(tmp_path, teacher=str(checkpoint.model_dir(finished, 0, 4)))
    jax.tree.map(
        np.testing.assert_array_equal, params(finished, 0), params(tmp_path, 0)
    )
    assert [r["phase"] for r in rows(tmp_path, "metrics.jsonl")] == [1, 1, 2, 2]
    assert rows(tmp_path, "eval.jsonl")[:2] == rows(finished, "eval.jsonl")[:2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("parameterization", "x", "its output is 'v', the configuration has 'x'"),
        ("schedule", "linear", "its schedule is 'cosine', the configuration"),
        (
            "data.image_shape",
            (4, 16, 1),
            r"its image_shape is \[8, 8, 1\], the configuration has \[4, 16, 1\]",
        ),
        ("net.ch", 32, r"is float32\[.*, but the network has float32"),
    ],
)
def test_a_teacher_of_another_kind_is_refused_before_anything_is_written(
    finished, tmp_path, field, value, message
):
    config = load_preset("digits", "smoke")
    *outer, name = field.split(".")
    setattr(getattr(config, outer[0]) if outer else config, name, value)
    config.data.name = "random"
    config.teacher = str(checkpoint.model_dir(finished, 0, 4))
    with pytest.raises(ValueError, match=message):
        run_config(config, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_student_is_no_teacher_for_other_steps_than_its_own(finished, tmp_path):
    with pytest.raises(
        ConfigError, match="its num_steps is 2, the configuration has 4"
    ):
        run(tmp_path / "w", teacher=str(checkpoint.model_dir(finished, 1, 2)))


@pytest.mark.parametrize(
    ("theirs", "refused"),
    [
        (["zero", "one", "two"], False),
        (["0", "1", "2"], False),  # without names
        (["zero", "two", "one"], True),
    ],
)
def test_a_teacher_whose_classes_have_other_numbers_is_refused(
    tmp_path, theirs, refused
):
    config = load_preset("digits", "smoke")
    config.net.num_classes = 3
    config.teacher = str(tmp_path / "teacher")
    model = make_model(config)
    params = jax.tree.map(lambda s: jax.numpy.zeros(s.shape), param_shapes(model))
    facts = {"num_steps": 4, "phase": 0, "class_names": theirs}
    checkpoint.save_model(tmp_path / "teacher", params, facts)
    message = "its class 1 is 'two', that of the data 'one'"
    with pytest.raises(ConfigError, match=message) if refused else nullcontext():
        check_teacher(config, model, ["zero", "one", "two"])


@pytest.mark.parametrize(
    ("theirs", "refused"),
    [({"net": {}}, True), ({"net": {"num_groups": 4}}, False), ({}, True)],
)
def test_a_teacher_with_other_groups_is_refused(tmp_path, theirs, refused):
    """Its parameters have the same shapes; those of earlier versions name none."""
    config = load_preset("digits", "smoke")
    config.net.num_groups = 4
    config.teacher = str(tmp_path / "teacher")
    model = make_model(config)
    params = jax.tree.map(lambda s: jax.numpy.zeros(s.shape), param_shapes(model))
    facts = {"num_steps": 4, "phase": 0} | theirs
    checkpoint.save_model(tmp_path / "teacher", params, facts)
    message = "was trained with net.num_groups=0, the configuration has 4"
    with pytest.raises(ConfigError, match=message) if refused else nullcontext():
        check_teacher(config, model)


def test_a_released_student_is_no_teacher_for_other_steps_than_its_own(
    finished, tmp_path
):
    params_0 = jax.tree.map(np.asarray, params(finished, 0))
    state = {"ema_params": params_0, "num_sample_steps": 1}
    path = tmp_path / "released"
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    with pytest.raises(ConfigError, match="its num_steps is 1, the configuration has"):
        run(tmp_path / "w", teacher=str(path))
    assert not (tmp_path / "w").exists()


def test_a_teacher_that_is_not_finite_is_refused_before_the_first_row(
    finished, tmp_path
):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params(finished, 0))
    checkpoint.save_model(tmp_path / "teacher", broken, {"num_steps": 4, "phase": 0})
    with pytest.raises(checkpoint.CheckpointError, match="are not finite"):
        run(tmp_path / "w", teacher=str(tmp_path / "teacher"))
    assert {path.name for path in (tmp_path / "w").iterdir()} == {"lock"}


def test_another_configuration_is_refused_for_the_same_workdir(finished):
    with pytest.raises(ConfigError, match="to another run: seed: 0 → 1; --override"):
        run(finished, seed=1)


def test_a_run_may_go_on_with_another_configuration_if_it_is_said(finished, tmp_path):
    """The rounds that are left are trained as they are said now, and no other."""
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / "30")  # back to the middle of round 2
    config = load_preset("digits", "smoke")
    config.distill.learning_rate *= 2
    config.log_every = 1
    run_config(config, workdir, override=True)
    config_files = sorted(path.name for path in workdir.glob("config*.json"))
    assert config_files == ["config.1.json", "config.json"]
    found = rows(workdir, "metrics.jsonl")
    assert [row["global_step"] for row in found] == [5, 10, 15, 20, 25, *range(26, 31)]
    assert found[:5] == rows(finished, "metrics.jsonl")[:5]
    for phase, changes in ((1, False), (2, True)):
        same = jax.tree.map(
            np.array_equal, params(finished, phase), params(workdir, phase)
        )
        assert all(jax.tree.leaves(same)) is not changes
    last = [rows(run, "eval.jsonl")[-3:] for run in (finished, workdir)]
    assert [row["role"] for row in last[1]] == ["teacher", "teacher", "student"]
    assert last[1][-1]["params"] != last[0][0]["params"]


def test_a_run_whose_checkpoints_are_gone_does_not_start_anew(finished, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = rows(workdir, "metrics.jsonl")
    with pytest.raises(ConfigError, match="holds phase_00_steps_4 of a run, but none"):
        run(workdir)
    assert rows(workdir, "metrics.jsonl") == before


def test_a_plan_that_does_not_lead_to_the_checkpoint_is_refused(finished):
    config = load_preset("digits", "smoke")
    config.base.num_updates = 7
    before = (finished / "config.json").read_text()
    with pytest.raises(ConfigError, match="update 10 of phase 2, 30 in all"):
        run_config(config, finished, override=True)
    assert (finished / "config.json").read_text() == before


def test_a_diverging_run_stops_with_phase_and_step_and_saves_nothing_of_it(tmp_path):
    config = load_preset("digits", "smoke")
    config.base.learning_rate, config.base.warmup_updates = 1e38, 0
    with pytest.raises(
        NonFiniteError, match=r"^training diverged: phase 0 \(teacher\), update \d+: "
    ):
        run_config(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "models").exists()


def draw(workdir, num, num_steps=2, teacher=False, seed=0):
    model = progdist.load(workdir, num_steps, teacher=teacher)
    return model.sample(num, seed=seed, batch_size=32)


def test_samples_of_a_round_depend_on_seed_and_number_alone(finished):
    images = draw(finished, 40)
    np.testing.assert_array_equal(draw(finished, 3), images[:3])
    with np.load(finished / "samples" / "phase_01.npz") as drawn:
        np.testing.assert_array_equal(drawn["arr_0"], images[:10])
    assert not np.array_equal(draw(finished, 40, seed=1), images)


def test_the_teacher_can_be_drawn_from_at_any_number_of_steps(finished):
    with np.load(finished / "samples" / "baseline_01.npz") as drawn:
        np.testing.assert_array_equal(
            drawn["arr_0"], draw(finished, 10, num_steps=2, teacher=True)
        )
    draw(finished, 1, num_steps=3, teacher=True)


def test_a_number_of_steps_without_a_round_is_refused(finished):
    message = r"^num_steps=3: no such finished model .* available steps: 1, 2, 4$"
    with pytest.raises(checkpoint.CheckpointError, match=message):
        draw(finished, 1, num_steps=3)


@pytest.mark.slow
def test_models_above_the_bound_of_the_evaluation_are_left_out(tmp_path):
    """The teacher of 8 steps is sampled in 2, and of the students those of 2 and 1."""
    config = load_preset("digits", "smoke")
    config.evaluation.max_steps, config.evaluation.baselines = 2, ("ddim",)
    config.distill.start_steps = 8
    run(tmp_path, evaluation=config.evaluation, distill=config.distill)
    lines = (tmp_path / "eval.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    found = [(row["phase"], row["sampler"], row["num_steps"]) for row in rows]
    assert found == [
        (0, "ddim", 2),
        (2, "ddim", 2),
        (3, "ddim", 1),
        (0, "ddim", 1),
    ]
    headers = [str(column.header) for column in report.closing_table(tmp_path).columns]
    assert headers[-1] == "student / teacher at 2"
