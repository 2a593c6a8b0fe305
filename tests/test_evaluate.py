"""The command that measures any round of a run."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from configs.digits import get_config
from progdist import checkpoint, cli, data, model, parallel, preflight, report, sample
from progdist.config import ConfigError, from_json, to_json
from progdist.errors import UsageError, exit_with
from progdist.evaluate import __main__ as evaluate, evaluator
from progdist.report import save_png
from progdist.workdir.lock import Lock
from progdist.workdir.rows import read_rows
from tests import faults, test_processes

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Models of three phases, of 4, 2 and 1 steps, with parameters at random."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    config = get_config("smoke")
    config.evaluation.num_samples = 32
    config.evaluation.batch_size = 31  # on one device, which compiles faster
    mesh = parallel.make_mesh(jax.devices()[:1])
    shapes = model.param_shapes(preflight.make_model(config))
    for phase, num_steps in enumerate((4, 2, 1)):
        path = checkpoint.model_dir(workdir, phase, num_steps)
        rng = np.random.default_rng(phase)
        params = parallel.place(
            jax.tree.map(
                lambda s, rng=rng: np.float32(0.1) * rng.normal(size=s.shape), shapes
            ),
            mesh,
        )
        params = jax.tree.map(lambda leaf: leaf.astype("float32"), params)
        facts = {"num_steps": num_steps, "schedule": "cosine", "output": "v"}
        checkpoint.save_model(path, params, facts)
    (workdir / "config.json").write_text(to_json(config))
    return workdir


@pytest.fixture
def workdir(finished, tmp_path, monkeypatch):
    """The run, with a file of rows of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = tmp_path / "run"
    own.mkdir()
    (own / "models").symlink_to(finished / "models")
    (own / "config.json").write_text((finished / "config.json").read_text())
    return own


def command(module, *flags, monkeypatch):
    monkeypatch.setattr(cli, "prepare_devices", lambda *_: None)  # done already
    module.main(["progdist", *flags])


def rows(workdir, **wanted):
    found = read_rows(workdir / "eval.jsonl")
    return [r for r in found if wanted.items() <= r.items()]


def test_rows_say_what_they_are_of(workdir, monkeypatch, capsys):
    flags = [f"--workdir={workdir}", "--metrics=fd,kid,pr", "--num=40"]
    command(evaluate, *flags, monkeypatch=monkeypatch)
    found = rows(workdir)
    assert [(r["phase"], r["num_steps"], r["role"]) for r in found[::4]] == [
        (0, 4, "teacher"),
        (1, 2, "student"),
        (2, 1, "student"),
    ]
    names = ["FD-pixels", "KID-pixels", "precision-pixels", "recall-pixels"]
    assert [r["metric"] for r in found] == names * 3
    for row in found:
        assert row["num_samples"] == 40
        assert row["features"] == "pixels"
        assert row["floor"]["count"] == 40
        reference = row["reference"]
        assert (reference["data"], reference["split"]) == ("digits", "train")
        assert reference["count"] == 1797
        assert np.isfinite([row["value"], row["floor"]["value"]]).all()
    assert found[0]["floor"]["value"] < found[0]["value"]  # the model is poor
    by_command = report.read_evaluations(workdir, "KID-pixels")
    assert sorted(e.num_steps for e in by_command) == [1, 2, 4]
    assert "FD-pixels" in capsys.readouterr().out


def test_the_distance_is_that_of_the_images_and_the_data(workdir, monkeypatch):
    flags = [f"--workdir={workdir}", "--num_steps=2", "--num=32"]
    command(evaluate, *flags, monkeypatch=monkeypatch)
    out = workdir / "all.npz"
    command(sample, *flags, f"--out={out}", monkeypatch=monkeypatch)
    with np.load(out) as stored:
        images = stored["arr_0"]
    real = data.open_source("digits").images
    features = [x.reshape(len(x), -1) / 127.5 - 1 for x in (images, real)]
    (a, c_a), (b, c_b) = ((x.mean(0), np.cov(x.T)) for x in features)
    # The trace of the root; some pixels are 0 in all images, and sqrtm objects.
    root = np.sqrt(scipy.linalg.eigvals(c_a @ c_b).real.clip(0)).sum()
    expected = np.sum((a - b) ** 2) + np.trace(c_a + c_b) - 2 * root
    assert rows(workdir)[0]["value"] == pytest.approx(expected, rel=1e-6)


def test_what_is_there_is_not_computed_again(workdir, monkeypatch, capsys):
    flags = [f"--workdir={workdir}", "--round=0", "--num_steps=2", "--num=16"]
    flags += ["--sampler=ancestral,heun", "--gammas=0,1", "--metrics=fd"]
    command(evaluate, *flags, monkeypatch=monkeypatch)
    whole = rows(workdir)
    assert [(r["sampler"], r.get("gamma")) for r in whole] == [
        ("ancestral", 0.0),
        ("ancestral", 1.0),
        ("heun", None),
    ]
    lines = (workdir / "eval.jsonl").read_text().splitlines()
    # As if killed while the third row was being written.
    cut = "\n".join(lines[:-1]) + "\n" + lines[-1][:40]
    (workdir / "eval.jsonl").write_text(cut)
    drawn = []
    monkeypatch.setattr(
        evaluator.sampling,
        "draw_images",
        lambda *a, inner=evaluator.sampling.draw_images: drawn.append(1) or inner(*a),
    )
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert rows(workdir) == whole
    assert len(drawn) == 1
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert len(drawn) == 1
    assert capsys.readouterr().out.count("already evaluated") == 5
    command(evaluate, *flags, "--seed=1", "--gammas=0", monkeypatch=monkeypatch)
    assert len(drawn) == 3


def test_values_do_not_depend_on_the_batch_size(workdir, monkeypatch):
    for size in (1, 7, 64):
        (workdir / "eval.jsonl").unlink(missing_ok=True)
        flags = [f"--workdir={workdir}", "--num_steps=1", "--num=20"]
        flags += [f"--batch_size={size}", "--metrics=fd,kid,pr"]
        command(evaluate, *flags, monkeypatch=monkeypatch)
        values = [row["value"] for row in rows(workdir)]
        if size == 1:
            first = values
        np.testing.assert_allclose(values, first, 1e-9)


def test_a_workdir_in_use_is_left_alone(workdir, monkeypatch):
    with Lock(workdir), pytest.raises(ValueError, match="is in use by"):
        command(evaluate, f"--workdir={workdir}", monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics=fid"], "--metrics=fid: is not one of fd, kid, is, pr"),
        (["--features=vgg"], "--features=vgg: is not one of pixels, inception"),
        (["--sampler=plms"], "--sampler=plms: is not one of ddim, ancestral, euler"),
        (["--metrics=is"], "--metrics=is: needs a network's --features"),
        (
            ["--metrics=pr", "--num=3"],
            "--metrics=pr: needs at least 4 images, not the 3 of --num",
        ),
        (["--num_steps=3"], "--num_steps=3: no such round; there are 0 (N = 4)"),
        (["--num_steps=x"], "--num_steps=x: must be whole numbers"),
        (["--num_steps=0"], "--num_steps=0: must be 1 to 16,777,216"),
        (["--round=0", "--num_steps=3000000000"], "--num_steps=3000000000: must be 1 "),
        (["--gammas=0.5"], "--gammas: needs --sampler=ancestral"),
        (["--inception_weights=a"], "--inception_weights: needs --features=inception"),
        (["--round=7"], "--round=7: is not finished"),
        (["--num_steps=1", "--sampler=heun"], "--sampler=heun: makes 2 network calls"),
        (["--gammas=2", "--sampler=ancestral"], "--gammas=2.0: must be 0 to 1"),
        (["--num=1"], "num=1"),
        (["--split=test"], "data 'digits' has the split 'train' only"),
        (["--features=inception", "--inception_weights=none"], "none: No such file"),
    ],
)
def test_a_mistake_is_one_line(flags, message, workdir, monkeypatch, capsys):
    monkeypatch.setattr(cli, "prepare_devices", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        exit_with(evaluate.main, ["progdist", f"--workdir={workdir}", *flags])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not rows(workdir)


def test_a_model_of_another_schedule_is_refused(workdir, monkeypatch):
    config = from_json(workdir / "config.json")
    config.schedule = "linear"
    (workdir / "config.json").write_text(to_json(config))
    flags = [f"--workdir={workdir}", "--num_steps=1"]
    for module, out in ((evaluate, ()), (sample, (f"--out={workdir}/a.png",))):
        with pytest.raises(ConfigError, match="its schedule is 'cosine', the config"):
            command(module, *flags, *out, monkeypatch=monkeypatch)


def test_a_few_images_have_no_floor(workdir, tmp_path, monkeypatch):
    folder = tmp_path / "few"
    for i in range(3):
        save_png(folder / f"{i}.png", np.full((8, 8, 1), 80 * i, np.uint8))
    config = from_json(workdir / "config.json")
    config.data.name, config.data.dir = "folder", str(folder)
    (workdir / "config.json").write_text(to_json(config))
    flags = [f"--workdir={workdir}", "--num_steps=1"]
    command(evaluate, *flags, monkeypatch=monkeypatch)
    (row,) = rows(workdir)
    assert (row["floor"], row["reference"]["count"]) == (None, 3)
    with pytest.raises(UsageError, match="not the 3 of the data's train"):
        command(evaluate, *flags, "--metrics=pr", monkeypatch=monkeypatch)


def test_a_directory_that_is_not_finished_is_not_left(workdir, monkeypatch, tmp_path):
    save, calls = report.save_png, []

    def fail(path, image):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, image)

    monkeypatch.setattr(report, "save_png", fail)
    flags = [f"--workdir={workdir}", "--num_steps=1", "--num=10"]
    with pytest.raises(OSError, match="No space left") as failed:
        command(sample, *flags, f"--out={tmp_path}/each/", monkeypatch=monkeypatch)
    assert failed.value.filename == f"{tmp_path}/each"
    assert not list(tmp_path.glob("*each*"))


def test_a_directory_of_files_holds_the_same_images(workdir, monkeypatch, tmp_path):
    flags = [f"--workdir={workdir}", "--num_steps=1", "--num=40"]
    command(sample, *flags, f"--out={tmp_path}/all.npz", monkeypatch=monkeypatch)
    command(sample, *flags, f"--out={tmp_path}/each/", monkeypatch=monkeypatch)
    with np.load(tmp_path / "all.npz") as stored:
        images = stored["arr_0"]
    paths = sorted((tmp_path / "each").iterdir())
    assert [p.name for p in paths[:2]] == ["000000.png", "000001.png"]
    files = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_array_equal(files, images[..., 0])
    with pytest.raises(UsageError, match="exists and is not empty"):
        command(sample, *flags, f"--out={tmp_path}/each/", monkeypatch=monkeypatch)


def test_a_sampler_of_two_calls_a_step_takes_no_odd_number(workdir, monkeypatch):
    flags = [f"--workdir={workdir}", "--num_steps=1", "--out=a.png", "--sampler=heun"]
    with pytest.raises(UsageError, match="makes 2 network calls per step"):
        command(sample, *flags, monkeypatch=monkeypatch)


def test_the_report_takes_the_best_gamma_and_a_students_own_steps(tmp_path):
    def row(role, value, num_steps=4, trained_steps=4, **more):
        return {
            "phase": int(role == "student"),
            "role": role,
            "sampler": "ancestral",
            "num_steps": num_steps,
            "trained_steps": trained_steps,
            "metric": "FID",
            "value": value,
            "num_samples": 10,
            "features": "inception",
        } | more

    written = [
        row("teacher", 5.0, gamma=0.0),
        row("teacher", 3.0, gamma=0.3),
        row("teacher", 4.0, gamma=1.0),
        row("student", 2.0, 2, 2),
        row("student", 1.0, 4, 2),
    ]
    text = "".join(json.dumps(r) + "\n" for r in written)
    (tmp_path / "eval.jsonl").write_text(text)
    found = {
        e.role: (e.num_steps, e.value) for e in report.read_evaluations(tmp_path, "FID")
    }
    assert found == {"teacher": (4, 3.0), "student": (2, 2.0)}


@pytest.mark.slow
def test_two_processes_measure_what_one_does(workdir, tmp_path):
    config = from_json(workdir / "config.json")
    config.cpu_devices = 1
    (workdir / "config.json").write_text(to_json(config))
    flags = [f"--workdir={workdir}", "--num_steps=1", "--num=50", "--batch_size=16"]
    flags += ["--metrics=fd,kid,pr", "--features=pixels,squeezenet"]
    base = [sys.executable, "-m", "progdist.evaluate", *flags]
    test_processes.end([subprocess.Popen(base, **faults.QUIET)])
    alone = rows(workdir)
    assert len(alone) == 8
    (workdir / "eval.jsonl").unlink()
    for path in (tmp_path / "cache").rglob("*.npz"):
        path.unlink()
    started = [
        subprocess.Popen([*base, *cluster], **faults.QUIET)
        for cluster in test_processes.clusters(2)
    ]
    codes, said = test_processes.end(started)
    assert codes == [0, 0], said
    together = rows(workdir)
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        assert other["value"] == pytest.approx(one["value"], rel=1e-5, abs=1e-9)
        assert other["floor"]["value"] == pytest.approx(one["floor"]["value"], rel=1e-5)
