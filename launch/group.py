"""Processes that live and die together.

A signal goes to all of them, once; where one ends before its time, the others get a
time of grace to notice, and are killed after it. They die with this process, however
it dies (on Linux).
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO, NamedTuple

_TICK_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_TELLING = 2, 3, 4  # of progdist.main: bad input, diverged, not written
_FOLLOWING = 5, 128 + signal.SIGABRT  # what the loss of another process leads to


class End(NamedTuple):
    """How a process ended; `code` as in a shell, `dismissed` if it was killed here."""

    rank: int
    code: int
    dismissed: bool = False


def verdict(ends: Sequence[End]) -> int:
    """Returns the exit code that says most about why a group ended.

    Args:
      ends: in the order in which the processes ended.

    Returns:
      The telling code of the lowest rank (bad input, diverged, not written); else the
      first that is not the mere consequence of losing another process; 0 if all did
      what they should.
    """
    own = [end for end in ends if end.code and not end.dismissed]
    telling = sorted((end.rank, end.code) for end in own if end.code in _TELLING)
    causes = [end.code for end in own if end.code not in _FOLLOWING]
    others = [end.code for end in own or ends if end.code]
    return next(iter([code for _, code in telling] + causes + others), 0)


def is_worth_restarting(code: int) -> bool:
    """Whether the same command may go on: a process was lost or preempted.

    Bad input and divergence come back; Ctrl-C was meant; any other code is a mistake
    that somebody should look at.
    """
    return code == 5 or (code > 128 and code != 128 + signal.SIGINT)


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered.

    Attributes:
      received: their numbers, in order; SIGHUP, which no process expects, as SIGTERM.
    """

    def __init__(self) -> None:
        self.received: list[int] = []

    def __enter__(self) -> "Signals":
        numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received.append(
            signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        )


class Group:
    """Runs commands side by side.

    The first has the terminal; what the others say comes line by line, with their rank
    in front, on standard error.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], environments: Sequence[Mapping]
    ) -> None:
        """Starts the commands; each environment adds to this process's own."""
        die_with_us = _make_die_with(os.getpid())
        self._relay = _Relay()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ends: list[End] = []
        self._dismissed: set[int] = set()
        for rank, command in enumerate(commands):
            process = subprocess.Popen(
                command,
                env={**os.environ, **environments[rank]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if rank else None,
                stderr=subprocess.STDOUT if rank else None,
                # Ctrl-C would reach them from the terminal, and again from here.
                process_group=0,
                # Safe, since this process has one thread.
                preexec_fn=die_with_us,
            )
            self._running[rank] = process
            if process.stdout:
                self._relay.add(rank, process.stdout)

    def attend(self, signals: Signals, grace_seconds: float) -> list[End]:
        """Waits until all have ended.

        Args:
          signals: the first is passed on; a second one kills at once.
          grace_seconds: from the first signal, or the first end with a code other
            than 0, to the killing of those that are left.

        Returns:
          The ends, in order.
        """
        deadline, is_told = float("inf"), False
        while self._running:
            self._relay.pass_on(_TICK_SECONDS)
            self._note_ends()
            if signals.received and not is_told:
                self._send(signals.received[0])
                is_told = True
            if is_told or any(end.code for end in self._ends):
                deadline = min(deadline, time.monotonic() + grace_seconds)
            if len(signals.received) > 1 or time.monotonic() >= deadline:
                self._kill()
        self._relay.close()
        return self._ends

    def _note_ends(self) -> None:
        for rank, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                code = code if code >= 0 else 128 - code
                self._ends.append(End(rank, code, rank in self._dismissed))
                del self._running[rank]

    def _send(self, number: int) -> None:
        for process in self._running.values():
            process.send_signal(number)

    def _kill(self) -> None:
        for rank, process in self._running.items():
            self._dismissed.add(rank)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class _Relay:
    """Passes on, line by line, what is written to some pipes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._rests: dict[int, bytes] = {}

    def add(self, rank: int, pipe: IO[bytes]) -> None:
        self._rests[rank] = b""
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, rank)

    def pass_on(self, seconds: float) -> None:
        """Waits for at most so long; returns whether there was something."""
        for key, _ in self._selector.select(seconds):
            data = os.read(key.fd, 1 << 16)
            *lines, self._rests[key.data] = (self._rests[key.data] + data).split(b"\n")
            _write(key.data, lines)
            if not data:
                self._selector.unregister(key.fileobj)

    def close(self) -> None:
        """Passes on what is still there, and no more: a grandchild may keep a pipe."""
        self.pass_on(0)
        for rank, rest in self._rests.items():
            _write(rank, [rest] if rest else [])
        self._selector.close()


def _write(rank: int, lines: Sequence[bytes]) -> None:
    for line in lines:
        print(f"[{rank}] {line.decode(errors='replace')}", file=sys.stderr, flush=True)


def _make_die_with(parent: int) -> Callable[[], None] | None:
    """Returns what a child calls to be killed as soon as its parent is no more."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "prctl"):
        return None

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(128 + signal.SIGKILL)

    return die_with_parent
