"""Commands, data and teachers that read what lies in a bucket."""

import io

import numpy as np
import pytest

import progdist
from progdist import preflight
from progdist.commands import devices, evaluate, report, sample, train
from progdist.config import Data, load_preset
from progdist.trainer import given
from progdist.workdir import copies
from progdist.workdir.bucket import Bucket
from progdist.workdir.mirror import Mirror
from tests.commands import answer
from tests.models import write_models


@pytest.fixture
def run(url, monkeypatch, tmp_path):
    """The address of a run whose models never trained."""
    monkeypatch.setattr(devices, "prepare", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with Mirror(url, print) as here:
        write_models(here.path)
    return url


def test_a_model_of_a_run_is_drawn_from_without_the_others(run, tmp_path):
    sample.main(["sample", run, "--steps=2", "--num=2", "--out=grid.png"])
    assert (tmp_path / "grid.png").exists()
    copied = copies._copies[run][0].path.glob("models/*/state")
    assert [path.parent.name for path in copied] == ["phase_01_steps_2"]
    model = progdist.load(f"{run}/models/phase_02_steps_1")
    assert model.num_steps == 1


def test_an_unknown_model_is_refused_with_those_that_there_are(
    run, capsys, monkeypatch
):
    code, said = answer(
        sample, run, "--steps=8", capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert said == (
        f"progdist: num_steps=8: no such finished model in {run}/models; available "
        "steps: 1, 2, 4\n"
    )


def test_rows_are_added_to_the_run_and_the_page_is_written_here(run, tmp_path):
    flags = ["--num_steps=1", "--metrics=fd", "--num=32", "--batch_size=16"]
    evaluate.main(["evaluate", run, *flags])
    rows, _ = Bucket(run).read("eval.jsonl")
    assert rows.count(b"\n") == 1
    assert Bucket(run).read("lock")[0] == b""
    evaluate.main(["evaluate", run, *flags])
    assert Bucket(run).read("eval.jsonl")[0] == rows
    evaluate.main(["evaluate", run, *flags, "--out=rows.jsonl", "--seed=9"])
    assert Bucket(run).read("eval.jsonl")[0] == rows
    assert (tmp_path / "rows.jsonl").exists()
    report.main(["report", run])
    assert "FD-pixels" in (tmp_path / "report.html").read_text()
    assert "report.html" not in Bucket(run).list()


def test_a_run_in_use_gets_no_rows(run, capsys, monkeypatch):
    with Mirror(run, print):
        flags = run, "--num_steps=1", "--metrics=fd"
        code, said = answer(evaluate, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert f"{run}: is in use by process" in said


def test_data_and_teacher_are_copied(run):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    file = io.BytesIO()
    np.save(file, images)
    Bucket(run).upload("images.npy", file.getvalue(), 0)
    place = f"{run}/images.npy"
    source = preflight.open_data(Data(name="arrays", dir=place, image_shape=(8, 8, 1)))
    assert len(source) == 20
    config = load_preset("digits", "smoke")
    config.teacher = f"{run}/models/phase_00_steps_4"
    given.check(config, given.open_given(config, False), source)


def test_a_dry_run_writes_nothing(url, run, capsys, monkeypatch):
    monkeypatch.setattr(devices, "prepare", lambda *_: None)
    before = Bucket(url).list()
    train.main(["train", f"{url}/new", "--config=digits:smoke", "--dry_run"])
    assert f"{url}/new, will be created" in capsys.readouterr().out
    assert Bucket(url).list() == before
