"""Signals, in processes of their own; their exit code is 128 + the signal's number."""

import signal
import subprocess
import sys
import time

import pytest

from progdist.errors import SIGNALS
from progdist.trainer.preemption import Interrupt

START = """
import sys, time
from progdist.trainer.preemption import Interrupt
interrupt = Interrupt(grace_seconds={grace})
with interrupt:
    print("ready", flush=True)
    {body}
"""
HEARS = """
    while not interrupt.received:
        time.sleep(0.01)
    interrupt.heard()
    time.sleep({saving})
sys.exit(128 + interrupt.received)
"""
# A long call into C, as a compilation is, during which Python runs no handlers.
DEAF = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'x', 10**9)"


@pytest.fixture
def start():
    started = []
    yield lambda *args, **kwargs: _start(started, *args, **kwargs)
    for process in started:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()
        process.stderr.close()


def _start(started, body, grace, prefix=()):
    code = START.format(grace=grace, body=body.strip())
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout.readline() == "ready\n"
    return process


def end(process):
    """Exit code and what was said."""
    _, error = process.communicate(timeout=30)
    return process.returncode, error


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_heard_and_the_run_takes_its_time_to_save(start, signum):
    process = start(HEARS.format(saving=1.0), grace=0.5)
    process.send_signal(signum)
    code, said = end(process)
    assert code == 128 + signum
    assert said.startswith(f"progdist: {signum.name}: stopping after this update")
    assert said.count("\n") == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_inside_a_long_call_is_ended_after_the_grace(start, signum):
    process, began = start(DEAF, grace=0.5), time.monotonic()
    process.send_signal(signum)
    code, said = end(process)
    assert code == 128 + signum
    assert "ended within a long step" in said
    assert 0.4 < time.monotonic() - began < 10


def test_a_second_ctrl_c_ends_at_once(start):
    process = start(DEAF, grace=60)
    process.send_signal(signal.SIGINT)
    assert "stopping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert code == 130
    assert "ended at once" in said


def test_ctrl_c_ends_a_save_that_hangs(start):
    process = start(HEARS.format(saving=60), grace=60)
    process.send_signal(signal.SIGTERM)
    assert "stopping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_a_second_sigterm_does_not_disturb_a_save(start):
    process, began = start(HEARS.format(saving=1), grace=60), time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert "stopping" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 143
    assert time.monotonic() - began > 1


def test_a_run_that_is_writing_is_not_ended_for_being_slow(start):
    writing = "with interrupt.busy(): time.sleep(2); interrupt.heard(); sys.exit(7)"
    process = start(writing, grace=1.0)
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 7


def test_a_signal_is_heard_where_nobody_listens(start):
    """The reader of standard error may be dead, as that of a log is."""
    process = start(HEARS.format(saving=0), grace=60)
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143


def test_a_closed_terminal_does_not_stop_a_run_under_nohup(start):
    process = start("time.sleep(1); sys.exit(7)", 0.1, prefix=["nohup"])
    process.send_signal(signal.SIGHUP)
    code, said = end(process)
    assert code == 7
    assert "SIGHUP" not in said


def test_afterwards_the_signals_are_what_they_were():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
