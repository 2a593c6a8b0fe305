"""Runs of several processes, joined over loopback."""

import json
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from progdist import checkpoint
from progdist.checkpoint import trees
from progdist.config import load_preset
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


def test_processes_of_different_configurations_are_refused(tmp_path):
    codes, said = end(start(tmp_path, 2, last_flags=["--config.seed=1"]))
    assert codes == [2, 2]
    for text in said:
        assert "progdist: the configuration must be the same for all processes" in text
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_processes_that_do_not_share_their_workdir_are_refused(tmp_path):
    elsewhere = f"--workdir={tmp_path / 'b'}"
    codes, said = end(start(tmp_path / "a", 2, last_flags=[elsewhere]))
    assert codes == [2, 2]
    for text in said:
        assert "must be storage that all processes share" in text


def test_what_process_0_refuses_ends_all(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": "of another kind"}))
    codes, said = end(start(tmp_path, 2))
    assert codes == [2, 2]
    assert "config.json: not a configuration" in said[0]
    assert said[1] == "progdist: process 0 failed; its own message says why\n"
