"""Ends a process that makes no progress: a peer, a disk or a device may hang."""

import faulthandler
import os
import sys
import threading
import time

EXIT_CODE = 5


class Watchdog:
    """Watches while it is entered; whoever makes progress calls `beat`."""

    def __init__(self, seconds: float) -> None:
        """Takes the longest time without progress; 0 watches nothing."""
        self._seconds = seconds
        self._last = time.monotonic()
        self._stop = threading.Event()

    def beat(self) -> None:
        """Says that there is progress."""
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
                f"progdist: no progress for {self._seconds:g} seconds; this is where "
                "it stands:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(sys.__stderr__ or 2)
        finally:  # also where nobody listens
            os._exit(EXIT_CODE)
