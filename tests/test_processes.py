"""Runs of several processes, joined over loopback."""

import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from progdist import checkpoint
from progdist.checkpoint import trees
from progdist.config import load_preset, to_json
from progdist.report import save_png
from progdist.workdir.lock import Lock
from tests import faults

HEARTBEAT = 20


def clusters(num_processes):
    """The flags of each process of a cluster on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        [
            "--distributed",
            f"--coordinator=127.0.0.1:{port}",
            f"--num_processes={num_processes}",
            f"--process_id={i}",
            f"--heartbeat_seconds={HEARTBEAT}",
        ]
        for i in range(num_processes)
    ]


def start(workdir, num_processes, *places, flags=(), last_flags=()):
    """Starts the processes; places[i] is where process i is stopped, if anywhere.

    All of them get `flags`, and the last one `last_flags` too.
    """
    started = []
    for i, cluster in enumerate(clusters(num_processes)):
        place = places[i] if i < len(places) else ()
        own = last_flags if i == num_processes - 1 else ()
        command = faults.command(workdir, *place, flags=[*cluster, *flags, *own])
        started.append(subprocess.Popen(command, **faults.QUIET))
    return started


def end(processes):
    """Exit codes, and what was said; all are killed after five minutes."""
    deadline, said = time.monotonic() + 300, []
    try:
        for process in processes:
            left = deadline - time.monotonic()
            said.append(process.communicate(timeout=left)[1])
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [process.returncode for process in processes], said


def newest(workdir):
    return checkpoint.snapshot_steps(workdir / "checkpoints")[0]


def assert_close(one, other):
    """The last checkpoints and all models, up to rounding.

    Adam divides a gradient by its own size: where the sum over a batch nearly cancels,
    its rounding moves a parameter by a share of the learning rate.
    """
    share = 0.01 * load_preset("digits").base.learning_rate
    paths = [path / "checkpoints" / "30" for path in (one, other)]
    a, b = (trees.read_arrays(path) for path in paths)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, share), a, b)
    for name in ("metrics.jsonl", "eval.jsonl"):
        ours, theirs = faults.rows(one, name), faults.rows(other, name)
        assert [list(row) for row in ours] == [list(row) for row in theirs]
        for row, same in zip(ours, theirs, strict=True):
            values = [(row[k], same[k]) for k in row if isinstance(row[k], float)]
            np.testing.assert_allclose(*zip(*values, strict=True), rtol=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, one device."""
    return faults.run_alone(tmp_path_factory.mktemp("runs") / "alone")


def test_a_run_may_lose_processes_and_go_on_with_fewer_or_more(alone, tmp_path):
    """Two, of which one is killed; one that is stopped; two that end it.

    Every restoration compares what it read with what was saved.
    """
    codes, said = end(start(tmp_path, 2, (), ("update", 8)))
    assert codes[1] == -9
    assert codes[0] in (5, -6)  # seen by us, or by JAX first
    assert "lost" in said[0] or "heartbeat" in said[0]
    assert newest(tmp_path) == 5
    done = faults.start(tmp_path, "terminated", 13)
    assert done.returncode == 143
    stopped = newest(tmp_path)
    assert stopped in (13, 14)
    codes, said = end(start(tmp_path, 2))
    assert codes == [0, 0], said
    assert f"resuming at update {stopped - 10} of phase 1" in said[0]
    assert "round" not in said[1]  # only process 0 speaks
    assert_close(alone, tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_update(alone, tmp_path):
    codes, said = end(start(tmp_path, 2, (), ("terminated", 13)))
    assert codes == [143, 143], said
    assert newest(tmp_path) in (13, 14)
    assert all("stopped by SIGTERM, saved at update" in text for text in said)
    codes, said = end(start(tmp_path, 2))
    assert codes == [0, 0], said
    assert_close(alone, tmp_path)


@pytest.mark.slow
def test_a_run_may_change_its_devices_on_the_way(alone, tmp_path):
    """1 → 2 → 4 → 1 devices of one process; the batches are the same for all."""
    for devices, place in enumerate([("terminated", k) for k in (7, 13, 23)]):
        flags = [f"--config.cpu_devices={2**devices}"]
        command = faults.command(tmp_path, *place, flags=flags)
        codes, said = end([subprocess.Popen(command, **faults.QUIET)])
        assert codes == [143], said
        assert newest(tmp_path) in (place[1], place[1] + 1)
    assert faults.start(tmp_path).returncode == 0
    assert_close(alone, tmp_path)


@pytest.mark.slow
def test_two_processes_resume_a_measurement_that_one_of_them_stopped(tmp_path):
    """Bit for bit, from the pieces of a batch that are done."""
    workdirs = tmp_path / "alone", tmp_path / "stopped"
    codes, said = end(start(workdirs[0], 2))
    assert codes == [0, 0], said
    codes, said = end(start(workdirs[1], 2, (), ("terminated_sampling", 2)))
    assert codes == [143, 143], said
    (kept,) = (workdirs[1] / "measuring").iterdir()
    with np.load(kept) as arrays:
        assert {"0/images/z", "1/images/z"} < set(arrays.files)
        assert 0 < arrays["1/images/step"] <= 4
    codes, said = end(start(workdirs[1], 2))
    assert codes == [0, 0], said
    assert not kept.exists()
    assert faults.differences(*workdirs) == []


@pytest.mark.slow
def test_a_peer_that_hangs_is_noticed_and_shown(tmp_path):
    flags = ["--config.stuck_seconds=60"]
    codes, said = end(start(tmp_path, 2, (), ("hang", 8), flags=flags))
    assert 5 in codes
    assert "progdist: no progress for 60 seconds" in "".join(said)
    assert "in wait" in said[1]


def test_a_process_says_for_whom_it_waits_and_a_signal_ends_it(tmp_path):
    code = "import sys; from progdist import main, errors; "
    code += "from progdist.commands import cluster; "
    code += "cluster.ANNOUNCE_SECONDS = 0.2; errors.exit_with(main.main, sys.argv)"
    flags = [*faults.FLAGS, f"--workdir={tmp_path / 'w'}", *clusters(3)[0]]
    command = [sys.executable, "-c", code, *flags]
    with subprocess.Popen(command, **faults.QUIET) as process:
        try:
            said = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
        finally:
            process.kill()
    where = flags[-4].removeprefix("--coordinator=")
    assert said == f"progdist: waiting for 2 other processes of the run at {where}\n"
    assert code == -signal.SIGINT
    assert not (tmp_path / "w").exists()


# --- refusals and failures: one code, and one line of each process


class Reason(NamedTuple):
    """A reason for which two processes end.

    Attributes:
      code: exit code of both.
      message: part of what is said by those that know it; the others name these.
      flags: flags of both.
      last_flags: flags of process 1 alone.
      prepare: fills the workdir, given that of a finished run; returns more flags.
      places: where each process is stopped, if anywhere.
    """

    code: int
    message: str
    flags: tuple[str, ...] = ()
    last_flags: tuple[str, ...] = ()
    prepare: Callable[[Path, Path], Sequence[str]] = lambda workdir, alone: ()
    places: tuple[tuple, ...] = ()


def resumed(workdir, alone):
    shutil.copytree(alone, workdir)
    return ()


def of_other_settings(workdir, _):
    workdir.mkdir()
    text = to_json(dataclasses.replace(load_preset("digits", "smoke"), seed=1))
    (workdir / "config.json").write_text(text)
    return ()


def of_other_numerics(workdir, alone):
    path = workdir / "starts.jsonl"
    resumed(workdir, alone)
    row = json.loads(path.read_text().splitlines()[-1])
    row["numerics"]["xla_flags"] = "--other"
    path.write_text(json.dumps(row) + "\n")
    return ()


def of_other_data(workdir, _):
    """A run on images in a folder, one of which then changes."""
    images = workdir.with_name("images")
    for i in range(20):
        save_png(images / f"{i}.png", np.full((8, 8, 1), 7 * i, np.uint8))
    flags = ["--config.data.name=folder", f"--config.data.dir={images}"]
    assert end([start_alone(workdir, "terminated", 2, flags)])[0] == [143]
    save_png(images / "3.png", np.full((8, 8, 1), 250, np.uint8))
    return flags


def start_alone(workdir, place, number, flags):
    command = faults.command(workdir, place, number, flags=flags)
    return subprocess.Popen(command, **faults.QUIET)


def of_damaged_checkpoints(workdir, alone):
    resumed(workdir, alone)
    for path in (workdir / "checkpoints").rglob("manifest.sha256"):
        path.write_bytes(b"")
    return ()


def given_a_student(_, alone):
    return [f"--config.teacher={alone}/models/phase_01_steps_2"]


def standing_in_the_way(workdir, _):
    workdir.touch()
    return ()


NO_DATA = "--config.data.name=fashion_mnist", "--config.data.dir=/nowhere"
HUGE = "--config.keep_checkpoints=1000000000", "--config.base.num_updates=1000000000"
INCEPTION = (
    "--config.evaluation.features=inception",
    "--config.evaluation.inception_weights=/nowhere",
)
FULL = "full", 8
REASONS = {
    "configuration of one": Reason(
        2,
        "the configuration must be the same for all processes",
        last_flags=("--config.seed=1",),
    ),
    "other configuration": Reason(
        2, "belongs to another run: ", prepare=of_other_settings
    ),
    "flag of one": Reason(
        2, "--profile=1: must be UPDATE:COUNT", last_flags=("--profile=1",)
    ),
}
SLOW = {
    "data of one": Reason(2, "no train-images", last_flags=NO_DATA),
    "devices of one": Reason(
        2, "equally many devices", last_flags=("--config.cpu_devices=2",)
    ),
    "workdir of one": Reason(
        2,
        "must be storage that all processes share",
        last_flags=("--workdir=/nowhere/b",),
    ),
    "data": Reason(2, "no train-images", NO_DATA),
    "no teacher": Reason(2, "/nowhere: no such", ("--config.teacher=/nowhere",)),
    "a student": Reason(2, "its num_steps is 2", prepare=given_a_student),
    "batch": Reason(
        2,
        "config.base.batch_size=33: must be a multiple of the 2 devices",
        ("--config.base.batch_size=33", "--config.distill.batch_size=33"),
    ),
    "metric": Reason(
        2, "metrics=is: needs a network's", ("--config.evaluation.metrics=is",)
    ),
    "weights": Reason(2, "/nowhere: No such file", INCEPTION),
    "disk": Reason(2, "are free; see config.keep_checkpoints", HUGE),
    "file": Reason(2, "File exists", prepare=standing_in_the_way),
    "other numerics": Reason(2, "other numerics", prepare=of_other_numerics),
    "other data": Reason(2, "is not what the run began with", prepare=of_other_data),
    "damage": Reason(2, "no checkpoint is intact", prepare=of_damaged_checkpoints),
    "divergence": Reason(3, "training diverged", ("--config.base.learning_rate=1e30",)),
    "full disk of process 0": Reason(4, "File too large", places=(FULL,)),
    "full disk of process 1": Reason(4, "could not be written", places=((), FULL)),
    "full disks": Reason(4, "File too large", places=(FULL, FULL)),
    "signal to one that starts": Reason(
        143, "stopped by SIGTERM", places=((), ("starting", 1))
    ),
}
OTHERS = re.compile(r"process \d failed; its own message says why")


@pytest.mark.parametrize(
    "reason",
    [
        *(pytest.param(reason, id=name) for name, reason in REASONS.items()),
        *(
            pytest.param(reason, id=name, marks=pytest.mark.slow)
            for name, reason in SLOW.items()
        ),
    ],
)
def test_all_processes_end_with_one_code_and_those_that_know_say_why(
    reason, alone, tmp_path
):
    workdir = tmp_path / "w"
    flags = [*reason.flags, *reason.prepare(workdir, alone)]
    options = {"flags": flags, "last_flags": reason.last_flags}
    codes, said = end(start(workdir, 2, *reason.places, **options))
    assert codes == [reason.code] * 2, said
    lines = [re.findall(r"^progdist: (.*)$", text, re.MULTILINE) for text in said]
    assert [len(each) for each in lines] == [1, 1], said
    known = [line for (line,) in lines if not OTHERS.fullmatch(line)]
    assert known
    assert all(reason.message in line for line in known), said
    # Threads of Orbax may print some of their own when a write fails.
    assert f'File "{faults.ROOT / "progdist"}' not in "".join(said)


@pytest.mark.slow
def test_a_workdir_that_is_in_use_refuses_all_processes(tmp_path):
    with Lock(tmp_path):
        codes, said = end(start(tmp_path, 2))
    assert codes == [2, 2], said
    assert "is in use by process" in said[0]
    assert said[1] == "progdist: process 0 failed; its own message says why\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_an_error_in_the_program_is_shown_by_its_process_and_ends_all(number, tmp_path):
    places = [(), ()]
    places[number] = "bug", 3
    codes, said = end(start(tmp_path, 2, *places))
    assert codes == [1, 1], said
    assert "KeyError: 'bug'" in said[number]
    assert said[1 - number].endswith(
        f"process {number} failed; its own message says why\n"
    )
