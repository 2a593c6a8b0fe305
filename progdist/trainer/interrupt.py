"""SIGTERM and Ctrl-C: a wish to stop, heard between updates, where nothing is lost.

The first signal is noted, and the run ends at the next place that asks for it. A run
that is inside a long compilation cannot ask: after a time of grace it is ended there,
which costs no more than what was done since the last checkpoint. A second Ctrl-C ends
it at once; a second SIGTERM does not, for some schedulers repeat it while a run saves.
The exit code is 128 + the signal's number, as a shell gives it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = signal.SIGINT, signal.SIGTERM
_TICK_SECONDS = 0.1


class Interrupted(Exception):
    """The run stopped because it was asked to; `code` is its exit code."""

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}, {where}")
        self.code = 128 + signum


class Interrupt:
    """Listens to the signals while it is entered; must be, in the main thread.

    Attributes:
      received: number of the first signal; 0 before there is one.
    """

    def __init__(self, grace_seconds: float = 8.0) -> None:
        """Takes the time that the run has to hear a signal."""
        self.received = 0
        self._grace = grace_seconds
        self._heard = threading.Event()
        self._busy = False

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within it the run is writing, and is not ended for being slow to hear."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def heard(self) -> None:
        """Says that the run is stopping, and may take the time that it needs."""
        self._heard.set()

    def __enter__(self) -> "Interrupt":
        # Python runs its own handlers between bytecodes of the main thread, which may
        # be inside a compilation. The byte in the pipe is written at once, and a
        # thread reads it.
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {s: signal.signal(s, _do_nothing) for s in _SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.set()
        signal.set_wakeup_fd(self._wakeup)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        os.close(self._writer)  # which ends the thread

    def _listen(self, reader: int) -> None:
        signum = _read(reader, _SIGNALS)
        if signum:
            self.received = signum
            threading.Thread(target=self._end_after_grace, daemon=True).start()
            name = signal.Signals(signum).name
            _say(f"{name}: stopping after this update; Ctrl-C (again) ends at once")
            if _read(reader, (signal.SIGINT,)):
                _say("ended at once; goes on from the last checkpoint")
                os._exit(128 + signal.SIGINT)
        os.close(reader)

    def _end_after_grace(self) -> None:
        left = self._grace
        while not self._heard.wait(_TICK_SECONDS):
            left = self._grace if self._busy else left - _TICK_SECONDS
            if left <= 0:
                _say("ended within a long step; goes on from the last checkpoint")
                os._exit(128 + self.received)


def _read(reader: int, wanted: tuple[int, ...]) -> int:
    """Returns the number of the next signal that is wanted; 0 at the end."""
    while data := os.read(reader, 1):
        if data[0] in wanted:
            return data[0]
    return 0


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        print(f"progdist: {text}", file=sys.stderr, flush=True)


def _do_nothing(_: int, __: FrameType | None) -> None:
    pass
