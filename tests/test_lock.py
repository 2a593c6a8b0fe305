import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from progdist.diffusion import logsnr_bins
from progdist.workdir import lock
from progdist.workdir.journal import Journal
from progdist.workdir.lock import Lock, LockError, Owner
from tests.waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from progdist.workdir.lock import Lock
with Lock(Path(sys.argv[1])):
    print("owns", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that owns tmp_path."""
    command = [sys.executable, "-c", OWNER, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "owns\n"
        yield process
        process.kill()


def test_a_second_owner_is_refused_and_told_who_the_first_is(owner, tmp_path):
    began = time.monotonic()
    host = socket.gethostname()
    with (
        pytest.raises(LockError, match=f"process {owner.pid} on {host}, since 20"),
        Lock(tmp_path),
    ):
        pass
    assert time.monotonic() - began < 10
    assert owner.poll() is None


def test_the_lock_of_a_dead_owner_is_taken_over_at_once(owner, tmp_path):
    owner.kill()
    owner.wait(timeout=60)
    began = time.monotonic()
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 5  # without watching it for 7 seconds


def test_a_released_lock_is_free(tmp_path):
    for _ in range(2):
        with Lock(tmp_path):
            pass
    assert (tmp_path / "lock").read_text() == ""


def test_a_lock_on_the_local_disk_is_one_for_every_name_of_the_workdir(
    tmp_path, monkeypatch
):
    workdir, local = tmp_path / "drive", tmp_path / "disk" / "locks"
    workdir.mkdir()
    (tmp_path / "link").symlink_to(workdir)
    monkeypatch.setenv("PROGDIST_LOCK_DIR", str(local))
    with Lock(workdir):
        with pytest.raises(LockError, match="link: is in use"), Lock(tmp_path / "link"):
            pass
        with Lock(tmp_path):  # another workdir
            assert len(list(local.iterdir())) == 2
        assert Owner(workdir).is_alive()
    assert not Owner(workdir).is_alive()
    assert not list(workdir.iterdir())


def leave_note_of_another_host(directory):
    """As where the file system does not carry locks between machines."""
    note = {"pid": 1, "host": "elsewhere", "since": "2000-01-01"}
    (directory / "lock").write_text(json.dumps(note))


def test_an_owner_on_another_machine_is_seen_by_its_touching(tmp_path):
    leave_note_of_another_host(tmp_path)
    touch = threading.Timer(0.5, os.utime, [tmp_path / "lock"])
    touch.start()
    with pytest.raises(LockError, match="process 1 on elsewhere"), Lock(tmp_path):
        pass
    touch.join()


def test_one_on_another_machine_that_is_dead_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_WATCH_SECONDS", 0.5)
    leave_note_of_another_host(tmp_path)
    with Lock(tmp_path):
        pass


def test_an_owner_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_TOUCH_SECONDS", 0.05)
    with Lock(tmp_path):
        before = (tmp_path / "lock").stat().st_mtime_ns
        wait_until(lambda: (tmp_path / "lock").stat().st_mtime_ns > before)


def test_an_owner_that_was_suspended_notices_its_successor(tmp_path, monkeypatch):
    """On a file system without locks; the successor's record stays."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    owner = Lock(tmp_path)
    owner.check()  # not the owner yet
    with owner:
        journal = Journal(tmp_path, 0, logsnr_bins.EDGES, check=owner.check)
        journal.start({"global_step": 0})
        leave_note_of_another_host(tmp_path)
        with pytest.raises(LockError, match="taken over by process 1 on elsewhere"):
            journal.start({"global_step": 1})
        journal.close(LockError)
    assert (tmp_path / "starts.jsonl").read_text() == '{"global_step": 0}\n'
    assert lock.owner_of(tmp_path)["host"] == "elsewhere"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_what_is_no_note_is_no_owner(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    with Lock(tmp_path):
        pass
