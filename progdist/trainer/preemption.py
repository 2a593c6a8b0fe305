"""Preemption: signals that stop a run, and a watchdog that ends a hung one.

After the first SIGTERM, Ctrl-C, SIGHUP, SIGUSR1 or SIGUSR2 the run stops between two
updates, where nothing is lost. During a long compilation it cannot; after a grace
period the process is killed, at the cost of the updates since the last checkpoint. A
second Ctrl-C kills it at once. The other signals do not, since some schedulers repeat
them while a run saves. The exit code is 128 + the signal number, as in a shell.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

from jax.sharding import Mesh

from progdist import parallel
from progdist.data import progress
from progdist.data.progress import Counting
from progdist.errors import SIGNALS, Interrupted, heard_signals

_TICK_SECONDS = 0.1
_RESUMES = "the same command resumes from the last checkpoint"


class Interrupt:
    """Signal listener, as a context manager in the main thread.

    Attributes:
      received: number of the first signal; 0 until one arrives.
    """

    def __init__(
        self, grace_seconds: float = 8.0, task: str = "update", end: str = _RESUMES
    ) -> None:
        """Takes the grace period after a signal, in seconds, and words of messages.

        Args:
          grace_seconds: time after which the process is killed.
          task: name of what is finished first; "" to stop without a message.
          end: consequence of being killed.
        """
        self._task, self._end = task, end
        self.received = 0
        self._grace = grace_seconds
        self._heard = threading.Event()
        self._busy = False

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Suspends the grace period while the run writes."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def closing(self) -> None:
        """Suspends the grace period for good: the run writes its last files."""
        self._busy = True

    def heard(self) -> None:
        """Ends the grace period: the run is stopping."""
        self._heard.set()

    def __enter__(self) -> "Interrupt":
        # Python runs its own handlers between bytecodes of the main thread, which may
        # be inside a compilation. The byte in the pipe is written at once, and a
        # thread reads it.
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {s: signal.signal(s, _do_nothing) for s in heard_signals()}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.set()
        signal.set_wakeup_fd(self._wakeup)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._writer)  # ends the thread

    def _listen(self, reader: int) -> None:
        signum = _read(reader, SIGNALS)
        if signum:
            self.received = signum
            threading.Thread(target=self._end_after_grace, daemon=True).start()
            name = signal.Signals(signum).name
            if self._task:
                after = f"{name}: stopping after this {self._task}"
                _say(f"{after}; Ctrl-C (again) ends at once")
            if _read(reader, (signal.SIGINT,)):
                _say(f"ended at once; {self._end}")
                os._exit(128 + signal.SIGINT)
        os.close(reader)

    def _end_after_grace(self) -> None:
        left = self._grace
        while not self._heard.wait(_TICK_SECONDS):
            left = self._grace if self._busy else left - _TICK_SECONDS
            if left <= 0:
                _say(f"ended within a long step; {self._end}")
                os._exit(128 + self.received)


EXIT_CODE = 5


class Watchdog:
    """Kills a process that makes no progress, as a context manager."""

    def __init__(self, seconds: float) -> None:
        """Takes the maximum time between two calls of `beat`; 0 disables it."""
        self._seconds = seconds
        self._last = time.monotonic()
        self._stop = threading.Event()

    def beat(self) -> None:
        """Reports progress."""
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self._seconds:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self._seconds / 10)):
            if time.monotonic() - self._last > self._seconds:
                self._end()

    def _end(self) -> None:
        try:
            print(
                f"progdist: no progress for {self._seconds:g} seconds; stacks of all "
                "threads:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(sys.__stderr__ or 2)
        finally:  # even if stderr is closed
            os._exit(EXIT_CODE)


class Preemption:
    """Collective decision to stop, taken at the same points on all processes."""

    def __init__(self, interrupt: Interrupt, watchdog: Watchdog, mesh: Mesh) -> None:
        """Takes the listener, the watchdog, and the devices that carry the votes."""
        self._interrupt, self._watchdog = interrupt, watchdog
        self._vote = parallel.Vote(mesh)
        self._signal = 0

    def stops(self) -> bool:
        """Whether any process received a signal; the same answer on all of them."""
        self._watchdog.beat()
        self._signal = self._vote(self._interrupt.received)
        if self._signal:
            self._interrupt.heard()
        return bool(self._signal)

    def saving(self) -> AbstractContextManager[None]:
        """Suspends the grace period while the run writes."""
        return self._interrupt.busy()

    def interrupted(self, where: str) -> Interrupted:
        """Returns the error to raise after `stops` was true."""
        return Interrupted(self._signal, where)

    def check(self) -> None:
        """Stops within an evaluation after a signal.

        Raises:
          Interrupted: if any process received a signal.
        """
        if self.stops():
            raise self.interrupted("within an evaluation")

    def watched(self, counting: Counting) -> Counting:
        """Returns `counting` that checks whenever something was counted."""

        @contextlib.contextmanager
        def watched(title: str, total: int) -> Iterator[Callable[[int], None]]:
            with counting(title, total) as advance:

                def check_and_advance(count: int) -> None:
                    self.check()
                    advance(count)

                yield check_and_advance

        return watched


@contextlib.contextmanager
def interruptible() -> Iterator[Counting]:
    """Yields `progress.counting` in which a signal ends a command, on all processes."""
    task, end = "part of the measurement", "the same command resumes"
    with Interrupt(task=task, end=end) as interrupt:
        preemption = Preemption(interrupt, Watchdog(0.0), parallel.make_mesh())
        yield preemption.watched(progress.counting)


def _read(reader: int, signals: tuple[int, ...]) -> int:
    """Returns the number of the next of `signals`; 0 at the end of the pipe."""
    while data := os.read(reader, 1):
        if data[0] in signals:
            return data[0]
    return 0


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr is closed
        print(f"progdist: {text}", file=sys.stderr, flush=True)


def _do_nothing(_: int, __: FrameType | None) -> None:
    pass
