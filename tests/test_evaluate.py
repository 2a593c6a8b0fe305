"""The command that measures any round of a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from progdist import data, preflight, report, sample
from progdist.commands import devices, evaluate
from progdist.config import from_json, to_json
from progdist.errors import Interrupted, UsageError
from progdist.evaluate import evaluator, extraction
from progdist.evaluate.images import open_images
from progdist.report import save_png
from progdist.workdir.files import FormatError
from progdist.workdir.lock import Lock
from progdist.workdir.rows import read_rows
from tests import faults, test_processes
from tests.commands import answer
from tests.models import write_models
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Models of three phases, of 4, 2 and 1 steps, with parameters at random."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    return write_models(workdir)


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
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    module.main(["progdist", *flags])


def rows(workdir):
    there = (workdir / "eval.jsonl").exists()
    return faults.rows(workdir, "eval.jsonl") if there else []


@pytest.fixture
def at_signal():
    """Makes SIGTERM raise an error, as it ends a command that does not listen."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=["models", "images"])
def measured(request, workdir, tmp_path):
    """Flags that evaluate the models, or images."""
    flags = [f"--workdir={workdir}", "--metrics=fd", "--num=40"]
    if request.param == "models":
        return [*flags, "--num_steps=1", "--batch_size=8"]
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images)
    return [*flags, f"--images={tmp_path / 'images.npz'}", "--batch_size=8"]


@pytest.mark.parametrize(
    "opening", [(preflight, "open_data"), (evaluator, "open_extractors")]
)
def test_a_signal_while_data_is_opened_ends_the_command_at_once(
    opening, measured, at_signal, monkeypatch
):
    monkeypatch.setattr(*opening, lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        command(evaluate, *measured, monkeypatch=monkeypatch)


@pytest.mark.parametrize("measured", ["images"], indirect=True)
def test_a_signal_while_it_measures_is_answered(
    measured, at_signal, monkeypatch, capsys
):
    collect = extraction.collect

    def collect_after_signal(*args):
        signal.raise_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping after" in capsys.readouterr().err)
        return collect(*args)

    monkeypatch.setattr(extraction, "collect", collect_after_signal)
    with pytest.raises(Interrupted):
        command(evaluate, *measured, monkeypatch=monkeypatch)


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
    inner = evaluator.Batches
    monkeypatch.setattr(evaluator, "Batches", lambda *a: drawn.append(1) or inner(*a))
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert rows(workdir) == whole
    assert len(drawn) == 1
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert len(drawn) == 1
    assert capsys.readouterr().out.count("already evaluated") == 5
    command(evaluate, *flags, "--seed=1", "--gammas=0", monkeypatch=monkeypatch)
    assert len(drawn) == 3


def test_rows_are_safe_where_a_card_cannot_be_written(workdir, monkeypatch, capsys):
    models = workdir / "models"
    kept = models.resolve()
    models.unlink()
    shutil.copytree(kept, models)
    for model in models.iterdir():
        # Where the writer wants its temporary file; root may write anywhere else.
        (model / f".distances.jsonl.{os.getpid()}").mkdir()
    flags = [f"--workdir={workdir}", "--num_steps=1,2", "--num=20"]
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert len(rows(workdir)) == 2
    said = capsys.readouterr().err
    assert said.count("; the rows are in") == 2


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
        (
            ["--metrics=fid"],
            "'fid' is not one of fd, kid, is, pr; FID is the metric fd",
        ),
        (["--features=vgg"], "--features=vgg: 'vgg' is not one of pixels, inception"),
        (
            ["--sampler=plms"],
            "--sampler=plms: 'plms' is not one of ddim, ancestral",
        ),
        (["--metrics=is"], "--metrics=is: needs a network's --features"),
        (
            ["--metrics=pr", "--num=3"],
            "--metrics=pr: needs at least 4 images, not the 3 of --num",
        ),
        (["--num_steps=3"], "--num_steps=3: no such round; there are 0 (N = 4)"),
        (["--num_steps=x"], "--num_steps=x: must be whole numbers"),
        (["--num_steps=0"], "--num_steps=0: must be whole numbers, 1 to 16,777,216"),
        (
            ["--round=0", "--num_steps=3000000000"],
            "=3000000000: must be whole",
        ),
        (["--gammas=0.5"], "--gammas: needs --sampler=ancestral"),
        (["--inception_weights=a"], "--inception_weights: needs --features=inception"),
        (["--round=7"], "--round=7: is not finished"),
        (["--num_steps=1", "--sampler=heun"], "--sampler=heun: makes 2 network calls"),
        (["--gammas=2", "--sampler=ancestral"], "--gammas=2: must be numbers, 0 to 1"),
        (["--num=1"], "num=1"),
        (["--protocol=other"], "--protocol=other: 'other' is not one of published"),
        (["--protocol=published", "--inception_weights=none"], "none: No such file"),
        (
            ["--protocol=published", "--num=10"],
            "--num: --protocol=published sets it to 50000",
        ),
        (
            ["--protocol=published", "--features=inception_tf1,pixels"],
            "--features: --protocol=published sets it to inception_tf1",
        ),
        (
            ["--reference_images=1"],
            "at least 2 images, not the 1 of --reference_images",
        ),
        (["--metrics="], "--metrics: name at least one"),
        (["--data_dir=D"], "--data_dir: the data 'digits' has no directory"),
        (["--out=a.txt"], "--out=a.txt: must be a file in .jsonl"),
        (["--out=."], "--out=.: must be a file in .jsonl"),
        (["--out=no/a.jsonl"], "--out=no/a.jsonl: there is no directory no"),
        (["--images=none.npz"], "none.npz: no such file or folder"),
        (["--images=README.md"], "README.md: not a whole npz file"),
        (["--images=configs"], "configs: holds no image"),
        (["--images=a.npz", "--seed=0"], "--seed: does not go with --images"),
        (["--images=.github/digits_quality.png"], "not a whole npz file"),
        (
            ["--config=configs/digits.py"],
            "--config: goes with --images, without",
        ),
        (["--split=test"], "data 'digits' has the split 'train' only"),
        (["--features=inception", "--inception_weights=none"], "none: No such file"),
    ],
)
def test_a_mistake_is_one_line(flags, message, workdir, monkeypatch, capsys):
    code, error = answer(
        evaluate,
        f"--workdir={workdir}",
        *flags,
        capsys=capsys,
        monkeypatch=monkeypatch,
    )
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not rows(workdir)


def test_rows_go_to_another_file_and_the_workdir_may_be_read_only(
    workdir, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(
        os, "access", lambda path, _: workdir not in (path, path.parent)
    )
    flags, inside = [f"--workdir={workdir}", "--num_steps=1"], workdir / "rows.jsonl"
    with pytest.raises(UsageError, match=r"is not writable; --out=FILE\.jsonl puts"):
        command(evaluate, *flags, monkeypatch=monkeypatch)
    with pytest.raises(UsageError, match=r"run/rows\.jsonl: is not writable"):
        command(evaluate, *flags, f"--out={inside}", monkeypatch=monkeypatch)
    flags.append(f"--out={tmp_path}/rows.jsonl")
    with Lock(workdir):
        command(evaluate, *flags, monkeypatch=monkeypatch)
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert "already evaluated" in capsys.readouterr().out
    assert not rows(workdir)
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert (row["num_steps"], row["metric"]) == (1, "FD-pixels")


@pytest.fixture
def drawn(workdir, tmp_path, monkeypatch):
    """Images of the last student: a file and a folder."""
    for out in ("all.npz", "each/"):
        flags = [f"--workdir={workdir}", "--num_steps=1", "--num=32"]
        command(sample, *flags, f"--out={tmp_path}/{out}", monkeypatch=monkeypatch)
    return tmp_path


def test_images_from_elsewhere_have_the_metrics_of_the_same_samples(
    workdir, drawn, monkeypatch, capsys
):
    flags = [f"--workdir={workdir}", "--metrics=fd,pr"]
    command(evaluate, *flags, "--num_steps=1", monkeypatch=monkeypatch)
    expected = [(r["metric"], r["value"], r["floor"]) for r in rows(workdir)]
    for images in ("all.npz", "each"):
        out = drawn / f"{images}.jsonl"
        more = [f"--images={drawn}/{images}", f"--out={out}"]
        command(evaluate, *flags, *more, monkeypatch=monkeypatch)
        found = list(read_rows(out))
        for row, (metric, value, floor) in zip(found, expected, strict=True):
            assert (row["metric"], row["floor"]) == (metric, floor)
            assert row["value"] == pytest.approx(value, rel=1e-9)
            assert row["reference"]["data"] == "digits"
            assert (row["images"], row["num_samples"]) == (f"{drawn}/{images}", 32)
    capsys.readouterr()
    command(evaluate, *flags, *more, monkeypatch=monkeypatch)
    assert capsys.readouterr().out == f"{drawn}/each: already evaluated\n"
    (drawn / "each/000003.png").unlink()  # others than before
    command(evaluate, *flags, *more, monkeypatch=monkeypatch)
    assert [row["num_samples"] for row in read_rows(out)] == [32] * 3 + [31] * 3


def test_images_need_no_run(drawn, monkeypatch, capsys):
    def outcome(*flags):
        argv = [f"--images={drawn}/all.npz", "--config=configs/digits.py", *flags]
        return answer(evaluate, *argv, capsys=capsys, monkeypatch=monkeypatch)

    argv = ["progdist", f"--images={drawn}/all.npz", "--config=configs/digits.py"]
    monkeypatch.chdir(ROOT)
    command(evaluate, *argv[1:], "--num=20", monkeypatch=monkeypatch)
    assert f"{drawn}/all.npz" in capsys.readouterr().out
    assert "--num=33: there are 32 images in" in outcome("--num=33")[1]
    data_of = ("--config.data.name=random", "--config.data.image_shape=(8, 8, 3)")
    message = "all.npz: images are (8, 8, 1), the data's are (8, 8, 3)\n"
    code, error = outcome(*data_of)
    assert (code, error.endswith(message)) == (2, True)
    message = "not the 3 of --images"
    np.savez(drawn / "all.npz", arr_0=np.zeros((3, 8, 8, 1), np.uint8))
    assert message in outcome("--metrics=pr")[1]


def test_images_of_a_folder_have_the_size_of_the_data(workdir, drawn, monkeypatch):
    save_png(drawn / "each/000003.png", np.zeros((8, 9, 1), np.uint8))
    flags = [f"--workdir={workdir}", f"--images={drawn}/each"]
    with pytest.raises(
        FormatError, match=r"3\.png: images are \(8, 9, 1\), the data's"
    ):
        command(evaluate, *flags, monkeypatch=monkeypatch)


def test_images_of_a_folder_are_those_of_its_training_split(tmp_path):
    for split, width in (("train", 8), ("test", 9)):
        save_png(tmp_path / f"{split}/0.png", np.zeros((8, width, 1), np.uint8))
    assert len(open_images(tmp_path, (8, 8, 1), 1)) == 1


def test_data_that_moved_is_found_by_its_directory(workdir, tmp_path, monkeypatch):
    config = from_json(workdir / "config.json")
    config.data.name, config.data.dir = "folder", str(tmp_path / "before")
    (workdir / "config.json").write_text(to_json(config))
    rng = np.random.default_rng(0)
    for i in range(9):
        image = rng.integers(0, 256, (8, 8, 1), np.uint8)
        save_png(tmp_path / f"moved/{i}.png", image)
    flags = [f"--workdir={workdir}", "--num_steps=1"]
    with pytest.raises(ValueError, match="before: No such file"):
        command(evaluate, *flags, monkeypatch=monkeypatch)
    flags.append(f"--data_dir={tmp_path}/moved")
    command(evaluate, *flags, monkeypatch=monkeypatch)
    assert rows(workdir)[0]["reference"]["count"] == 9


def test_a_model_is_what_its_card_says(workdir, monkeypatch):
    command(evaluate, f"--workdir={workdir}", "--num_steps=1", monkeypatch=monkeypatch)
    config = from_json(workdir / "config.json")
    config.schedule = "linear"
    (workdir / "config.json").write_text(to_json(config))
    (workdir / "eval.jsonl").rename(workdir / "before.jsonl")
    command(evaluate, f"--workdir={workdir}", "--num_steps=1", monkeypatch=monkeypatch)
    assert rows(workdir) == faults.rows(workdir, "before.jsonl")


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
