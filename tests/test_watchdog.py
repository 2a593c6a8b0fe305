import subprocess
import sys

CODE = """
import threading, time
from progdist.trainer.preemption import Watchdog

def waits_for_a_peer():
    threading.Event().wait()

with Watchdog({seconds}) as watchdog:
    for _ in range(10):
        time.sleep(0.1)
        watchdog.beat()
    {then}
"""


def run(seconds, then):
    code = CODE.format(seconds=seconds, then=then)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )


def test_a_process_that_hangs_shows_where_and_ends():
    done = run(2, "waits_for_a_peer()")
    assert done.returncode == 5
    assert done.stderr.startswith("progdist: no progress for 2 seconds")
    assert "in waits_for_a_peer" in done.stderr


def test_one_that_makes_progress_is_left_alone():
    done = run(5, "pass")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_limit_nothing_is_watched():
    done = run(0, "time.sleep(0.5)")
    assert (done.returncode, done.stderr) == (0, "")
