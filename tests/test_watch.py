"""A page that follows runs: from before they begin until they have ended."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from progdist.commands.report import main
from progdist.errors import exit_with
from progdist.report.page import watch as watching
from progdist.workdir import files, lock
from progdist.workdir.lock import Lock, Owner
from tests.faults import command
from tests.journals import open_journal, row
from tests.waiting import text_of as text, wait_until

ROOT = Path(__file__).parents[1]
RELOADS = '<meta http-equiv="refresh" content="1">'


def begun(workdir):
    """A run that has nothing to show yet, of which a page is quickly made."""
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    return workdir


def npy(array):
    """A file of one array, as np.save has it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class Clock:
    """In place of sleeping: what happens at each look, one after the other."""

    def __init__(self, *acts):
        self.acts = list(acts)

    def __call__(self, seconds):
        assert seconds == 1
        self.acts.pop(0)()


def follow(monkeypatch, workdirs, *acts, out=None):
    """The page's path and what was told; after each look an act."""
    told, clock = [], Clock(*acts)
    monkeypatch.setattr(watching.time, "sleep", clock)
    path = watching.watch(workdirs, out, 1, told.append)
    assert not clock.acts
    return path, told


class Beside:
    """A run's owner that this process plays."""

    def __init__(self, workdir):
        self.lock = Lock(workdir)

    def begin(self):
        self.lock.__enter__()

    def end(self):
        self.lock.__exit__()


def test_a_run_that_has_ended_is_written_once_and_does_not_reload(
    tmp_path, monkeypatch
):
    workdir = begun(tmp_path / "r")
    path, told = follow(monkeypatch, [workdir])
    assert (path, told) == (workdir / "report.html", [])
    assert text(path).endswith("</html>")
    assert "refresh" not in text(path)


def test_a_run_is_waited_for_and_followed_to_its_end(tmp_path, monkeypatch):
    workdir = tmp_path / "r"
    page, seen = workdir / "report.html", []

    def begin():
        assert not workdir.exists()
        begun(workdir)
        owner.begin()

    def nothing():
        seen.append(page.stat().st_mtime_ns)
        assert RELOADS in text(page)
        assert "reloads itself every second." in text(page)

    def add():
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write('{"half')  # a row that is being written
        nothing()

    owner = Beside(workdir)
    path, told = follow(
        monkeypatch, [workdir], begin, nothing, nothing, add, nothing, owner.end
    )
    assert (path, told) == (page, [f"waiting for {workdir}"])
    assert seen[0] == seen[1] == seen[2] < seen[3]  # written where something was new
    assert "refresh" not in text(path)


def test_the_page_shows_the_runs_that_exist_so_far(tmp_path, monkeypatch):
    a, b, out = begun(tmp_path / "a"), tmp_path / "b", tmp_path / "both.html"

    def begin():
        assert "<title>a · progdist" in text(out)
        begun(b)

    path, _ = follow(monkeypatch, [a, b], begin, out=out)
    assert "<title>a, b · progdist" in text(path)


def test_a_malformed_file_is_reported_once_and_read_again(tmp_path, monkeypatch):
    workdir = begun(tmp_path / "r")
    samples, page = workdir / "samples" / "phase_01.npz", workdir / "report.html"
    samples.parent.mkdir()
    samples.write_bytes(b"half")
    owner = Beside(workdir)
    owner.begin()

    def mend():
        assert not page.exists()
        images = np.zeros((2, 8, 8, 1), np.uint8)
        files.write_npz(
            samples, images=images, num_steps=np.array(4), phase=np.array(1)
        )

    def look():
        assert RELOADS in text(page)
        owner.end()

    _, told = follow(monkeypatch, [workdir], lambda: None, mend, look)
    assert len(told) == 1
    assert "phase_01.npz: not a whole npz file" in told[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval.jsonl", b"[" * 100_000 + b"\n"),
        ("starts.jsonl", b'{"defaults": 3}\n'),
        ("samples/phase_01.npz", b"\x93NUMPY"),
        ("samples/trajectories.npz", npy(np.zeros(3))),
    ],
)
def test_malformed_files_do_not_end_it_while_the_run_goes_on(
    tmp_path, monkeypatch, name, content
):
    workdir = begun(tmp_path / "r")
    path, owner = workdir / name, Beside(workdir)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    owner.begin()

    def mend():
        path.unlink()
        owner.end()

    _, told = follow(monkeypatch, [workdir], lambda: None, mend)
    assert [line[: len(str(path))] for line in told] == [str(path)]


def test_a_file_that_is_malformed_at_the_end_is_an_error(tmp_path, monkeypatch):
    workdir = begun(tmp_path / "r")
    (workdir / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        follow(monkeypatch, [workdir])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_page_that_is_left_early_does_not_reload(tmp_path, monkeypatch, error):
    workdir = begun(tmp_path / "r")

    def stop():
        assert RELOADS in text(workdir / "report.html")
        raise error

    with Lock(workdir), pytest.raises(error):
        follow(monkeypatch, [workdir], stop)
    assert "refresh" not in text(workdir / "report.html")


# The owner


def test_an_owner_is_alive_as_long_as_it_touches_its_lock(tmp_path, monkeypatch):
    owner, now = Owner(tmp_path), [100.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    assert not owner.is_alive()
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "h", "since": "s"}))
    for touch in range(3):
        os.utime(tmp_path / "lock", ns=(0, touch))
        assert owner.is_alive()
        now[0] += lock._SILENT_SECONDS - 1
        assert owner.is_alive()
    now[0] += 1
    assert not owner.is_alive()  # killed
    os.utime(tmp_path / "lock", ns=(0, 99))
    assert owner.is_alive()  # started again
    (tmp_path / "lock").write_text("")
    assert not owner.is_alive()  # ended


def test_watching_does_not_keep_a_run_from_starting(tmp_path):
    owner = Owner(tmp_path)
    for _ in range(3):
        with Lock(tmp_path):
            assert owner.is_alive()
        assert not owner.is_alive()


# Other processes


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "progdist.report", *map(str, words), "--watch=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_it_follows_a_run_in_another_process(tmp_path):
    """From before it has begun; the end is found although nobody says it here."""
    workdir = tmp_path / "run"
    watcher = start(workdir)
    one_round = ["--config.distill.start_steps=2"]
    run = subprocess.Popen(
        command(workdir, flags=one_round), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        page = workdir / "report.html"
        wait_until(lambda: RELOADS in text(page), 120)
        assert run.wait(240) == 0
        out, error = watcher.communicate(timeout=60)
    finally:
        for process in (watcher, run):
            process.kill()
            process.wait(timeout=60)
    assert watcher.returncode == 0
    assert error in ("", f"progdist: waiting for {workdir}\n")  # the run may be first
    assert out.strip() == str(page)
    assert "refresh" not in text(page)
    assert text(page).count("<svg") == 7
    assert "20 of 20" in text(page)


@pytest.mark.parametrize(
    ("signum", "code", "said"),
    [
        (signal.SIGINT, 130, "progdist: interrupted\n"),
        (signal.SIGTERM, 143, "progdist: stopped by SIGTERM\n"),
    ],
)
def test_a_signal_ends_it(tmp_path, signum, code, said):
    workdir = begun(tmp_path / "r")
    with Lock(workdir):
        watcher = start(workdir)
        wait_until(lambda: RELOADS in text(workdir / "report.html"), 60)
        watcher.send_signal(signum)
        _, error = watcher.communicate(timeout=60)
    assert (watcher.returncode, error) == (code, said)
    assert "refresh" not in text(workdir / "report.html")


def test_a_page_that_cannot_be_written_is_code_4(tmp_path, capsys):
    words = [str(begun(tmp_path / "r")), "--out=/proc/a.html", "--watch=1"]
    with pytest.raises(SystemExit) as ended:
        exit_with(main, ["", *words])
    assert ended.value.code == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_a_busy_reader_never_sees_half_a_row(tmp_path):
    """While rows are appended, and cut as a resumed run does it."""
    workdir, written = begun(tmp_path / "r"), 0
    end = time.monotonic() + 1.5
    with subprocess.Popen(
        [sys.executable, "-c", _READ, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout.readline() == b"reading\n"
        while time.monotonic() < end or not written:
            journal = open_journal(workdir, 5)
            for step in range(1, 50):
                journal.metrics(row(step))
            journal.close()
            written += 1
        reader.terminate()
        assert reader.wait(30) == -signal.SIGTERM


_READ = """
import sys
from pathlib import Path
from progdist.report.read.run import load
print("reading", flush=True)
while True:
    load(Path(sys.argv[1]))
"""
