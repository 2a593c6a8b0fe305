"""What a run is asked again and again: is there progress, shall it stop?"""

from contextlib import AbstractContextManager

from jax.sharding import Mesh

from progdist.parallel import Vote
from progdist.trainer.interrupt import Interrupt, Interrupted
from progdist.trainer.watchdog import Watchdog


class Pulse:
    """Beats once an update or batch, at the same places on all processes."""

    def __init__(self, interrupt: Interrupt, watchdog: Watchdog, mesh: Mesh) -> None:
        """Takes what asks the run to stop, what watches it, and the devices."""
        self._interrupt, self._watchdog = interrupt, watchdog
        self._vote = Vote(mesh)
        self._signal = 0

    def stops(self) -> bool:
        """Whether any process was asked to stop; the same answer for all of them."""
        self._watchdog.beat()
        self._signal = self._vote(self._interrupt.received)
        if self._signal:
            self._interrupt.heard()
        return bool(self._signal)

    def saving(self) -> AbstractContextManager[None]:
        """Within it the run is writing, and may take the time that it needs."""
        return self._interrupt.busy()

    def interrupted(self, where: str) -> Interrupted:
        """Returns what to raise after `stops` was true."""
        return Interrupted(self._signal, where)

    def check(self) -> None:
        """Stops, if asked to, where nothing is half done.

        Raises:
          Interrupted: if any process was asked to stop.
        """
        if self.stops():
            raise self.interrupted("between two batches of samples")
