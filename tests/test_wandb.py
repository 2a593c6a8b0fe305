"""What is logged to Weights & Biases, read back from the files of its offline mode."""

import importlib
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from progdist.commands import train
from progdist.diffusion import logsnr_bins
from progdist.workdir import weights_and_biases
from progdist.workdir.journal import Journal
from tests import faults
from tests.commands import answer
from tests.journals import measured, row
from tests.waiting import text_of, wait_until

BLOCK = 2**15  # of the format of LevelDB's log


def contents(data):
    """Joins the pieces of each entry; those of a block are padded at its end."""
    at, whole = 7, b""  # after the magic bytes
    while at < len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, or the last one
            yield whole
            whole = b""


def records(workdir):
    """Returns the entries of every start, oldest first."""
    pytest.importorskip("wandb").teardown()  # which ends what still writes
    internal = importlib.import_module("wandb.proto.wandb_internal_pb2")
    paths = sorted(workdir.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime)
    return [
        [internal.Record.FromString(content) for content in contents(path.read_bytes())]
        for path in paths
    ]


def history(start):
    """Returns the logged entries by the name of the value and its global step."""
    found = []
    for record in start:
        if record.WhichOneof("record_type") == "history":
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            step = items.pop("global_step")
            found += [(n, step, v) for n, v in items.items() if n[0] != "_"]
    return found


def values(start, name):
    return [(step, value) for n, step, value in history(start) if n == name]


def log(workdir, global_step, steps):
    """Logs rows to the run of the workdir, as a start from `global_step` does."""
    settings = {"seed": 3}
    with weights_and_biases.WandbRun(workdir, "proj", settings, print) as wandb_run:
        edges = logsnr_bins.EDGES
        journal = Journal(workdir, global_step, edges, wandb_run=wandb_run)
        for step in steps:
            journal.metrics(row(step))
        journal.evaluation(measured(value=7.5), steps[-1])
        journal.images("samples/student", np.zeros((8, 8, 1), np.uint8), steps[-1])
        journal.close()


def test_a_run_has_the_rows_and_pictures_and_a_resumed_one_continues_it(
    tmp_path, monkeypatch
):
    """Rows after the checkpoint, here of step 5, are there twice at the same step."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(tmp_path, 0, [5, 10])
    log(tmp_path, 5, [10, 15])
    one, other = records(tmp_path)
    assert values(one, "train/loss") == [(5, 1.0), (10, 1.0)]
    assert values(other, "train/loss") == [(10, 1.0), (15, 1.0)]
    assert values(one, "FD-pixels/student_ddim") == [(10, 7.5)]
    heights = [1.0] * len(logsnr_bins.CENTRES)
    assert values(one, "train/loss_by_logsnr/values")[0] == (5, heights)
    ((step, path),) = values(one, "samples/student/path")
    assert (step, path[-4:]) == (10, ".png")
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/files/{path}"))) == 2
    runs = [
        record.run for start in (one, other) for record in start if record.run.run_id
    ]
    assert len({run.run_id for run in runs}) == 1
    assert {run.project for run in runs} == {"proj"}
    assert {update.key for update in runs[0].config.update} == {"_wandb", "seed"}


def test_nothing_is_told_about_the_machine_and_the_code(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(tmp_path, 0, [5])
    kinds = {record.WhichOneof("record_type") for record in records(tmp_path)[0]}
    assert not kinds & {"stats", "output", "output_raw", "environment"}
    (run,) = [r.run for r in records(tmp_path)[0] if r.run.run_id]
    assert (run.host, run.git.remote_url, run.git.commit) == ("", "", "")
    files = (p for p in tmp_path.glob("wandb/offline-run-*/files/*") if p.is_file())
    assert list(files) == []


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_continues(tmp_path, signum):
    """The signal reaches the process group, and with it the service of W&B."""
    pytest.importorskip("wandb")
    flags = [*faults.FLAGS, f"--workdir={tmp_path}", "--wandb=proj"]
    command = [sys.executable, "-m", "progdist.main", *flags]
    environment = os.environ | {"WANDB_MODE": "offline"}
    options = {**faults.QUIET, "env": environment, "start_new_session": True}
    with subprocess.Popen(command, **options) as process:
        wait_until(lambda: text_of(tmp_path / "eval.jsonl"))
        os.killpg(process.pid, signum)
        begun = time.monotonic()
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - begun
    assert process.returncode == 128 + signum, said
    assert f"stopped by {signal.Signals(signum).name}" in said
    assert seconds < 10
    done = subprocess.run(command, **options, timeout=120)
    assert done.returncode == 0, done.stderr
    one, other = records(tmp_path)
    assert [step for step, _ in values(one, "train/loss")][:2] == [5, 10]
    assert [step for step, _ in values(other, "train/loss")][-1] == 30


def test_without_a_network_a_run_is_logged_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb").teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(weights_and_biases, "CONNECT_SECONDS", 1.0)
    log(tmp_path, 0, [5])
    assert capsys.readouterr().out.startswith("W&B cannot be reached (")
    assert values(records(tmp_path)[-1], "train/loss") == [(5, 1.0)]


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    """Also where W&B has left a directory of its name."""
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    flags = [str(tmp_path / "w"), "--config=digits:smoke", "--wandb=proj"]
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    answered = answer(train, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert answered == (
        2,
        "progdist: --wandb=proj: needs a package; pip install 'progdist[wandb]'\n",
    )
