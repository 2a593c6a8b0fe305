"""Whole runs that are killed, stopped, crowded, or out of space."""

import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import bucket_faults, bucket_server, faults, interrupts
from tests.waiting import text_of, wait_until

MAIN = [sys.executable, "-m", "progdist.main", *faults.FLAGS]
# One here; `python -m tests.faults` has all, and its mutants.
KILLS = [("write", 10)]
START_SECONDS = 20  # of Python and JAX, on a busy machine
SMALL_DISK = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that is left alone."""
    return faults.run_alone(tmp_path_factory.mktemp("runs") / "alone")


def test_a_run_that_is_killed_or_stopped_ends_as_if_it_had_not_been(alone, tmp_path):
    places = [*KILLS, ("update", 7, "", signal.SIGUSR1)]

    def differs(place):
        return faults.kill_and_resume(alone, tmp_path / place[0], *place)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(differs, places)) == [[]] * len(places)


def test_a_run_in_a_bucket_that_is_killed_ends_as_if_it_had_not_been(alone, tmp_path):
    with bucket_faults.emulated():
        url = f"gs://{bucket_server.BUCKET}/run"
        place = "push", 30
        assert not bucket_faults.end_and_resume(alone, url, tmp_path / "disk", *place)


@pytest.mark.slow
def test_twenty_one_faults_of_runs_in_a_bucket_are_survived():
    assert bucket_faults.main() == 0


@pytest.mark.slow
def test_twenty_kills_of_twenty_are_survived():
    assert faults.main() == 0


@pytest.mark.slow
def test_twenty_signals_end_a_run_of_large_images_in_time():
    assert interrupts.main([]) == 0


def test_a_run_owns_its_workdir_and_stops_when_asked_to(tmp_path):
    """A second one is refused within 10 s; SIGTERM ends the first within 10 s."""
    command = [*MAIN, f"--workdir={tmp_path}", "--config.base.num_updates=100000"]
    with subprocess.Popen(
        command, cwd=faults.ROOT, stderr=subprocess.PIPE, text=True
    ) as first:
        try:
            wait_for_row(tmp_path, first)
            began = time.monotonic()
            second = subprocess.run(
                command, cwd=faults.ROOT, capture_output=True, text=True, timeout=60
            )
            assert time.monotonic() - began < 10 + START_SECONDS
            assert second.returncode == 2
            assert f"is in use by process {first.pid} on " in second.stderr
            assert second.stderr.count("\n") == 1
            began = time.monotonic()
            first.send_signal(signal.SIGTERM)
            _, said = first.communicate(timeout=30)
            assert time.monotonic() - began < 10
        finally:
            first.kill()
    assert first.returncode == 143
    assert "stopped by SIGTERM, saved at update" in said
    assert "Traceback" not in said


def wait_for_row(workdir, process):
    def has_row():
        assert process.poll() is None
        return "\n" in text_of(workdir / "metrics.jsonl")

    wait_until(has_row, 120)


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare of util-linux")
@pytest.mark.parametrize(("directory", "kilobytes"), [("", 3000), ("tensorboard", 8)])
def test_a_full_disk_is_no_success(tmp_path, directory, kilobytes):
    """Of 1.2 MB a checkpoint, the third does not fit; or the numbers do not."""
    disk = tmp_path / directory
    script = f'mkdir -p $0; mount -t tmpfs -o size={kilobytes}k none $0; exec "$@"'
    command = [*SMALL_DISK, script, disk, *MAIN, f"--workdir={tmp_path}"]
    command += ["--config.log_every=1", "--config.base.num_updates=60"]
    done = subprocess.run(
        command, cwd=faults.ROOT, capture_output=True, text=True, timeout=120
    )
    if done.stderr.startswith(("unshare", "mount")):
        pytest.skip("may not mount a small disk here")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
