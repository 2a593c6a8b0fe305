"""What a run shows while it works: a bar per phase, the numbers, the time left."""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


class Work(NamedTuple):
    """Updates ahead: how many in each phase, and what one costs beside the others'."""

    num_updates: int
    cost: float


class Display:
    """A progress bar per phase on a terminal; elsewhere a line now and then."""

    def __init__(
        self, work: Sequence[Work], active: bool = True, line_seconds: float = 15.0
    ) -> None:
        """Opens the display of a plan.

        Args:
          work: the phases, for the time left of the whole plan.
          active: whether to show anything.
          line_seconds: where there is no terminal, the least time between lines.
        """
        self._work = work
        self._active = active
        self._line_seconds, self._last_line = line_seconds, 0.0
        self._console = Console(stderr=True)
        self._terminal = self._console.is_terminal
        columns: tuple[str | ProgressColumn, ...] = (
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _StatusColumn(),
        )
        self._bars = Progress(
            *columns, console=self._console, disable=not (active and self._terminal)
        )
        self._bars.start()

    def start(self, phase: int, title: str, done: int) -> None:
        """Begins the bar of a phase, `done` updates into it."""
        total = self._work[phase].num_updates
        self._title, self._phase = title, phase
        self._bar = self._bars.add_task(title, total=total, completed=done, status="")

    def update(self, done: int, loss: float, steps_per_second: float) -> None:
        """Shows an interval's numbers and the time that is left."""
        here = (self._work[self._phase].num_updates - done) / steps_per_second
        unit = 1 / steps_per_second / self._work[self._phase].cost
        later = sum(
            w.num_updates * w.cost * unit for w in self._work[self._phase + 1 :]
        )
        status = (
            f"loss {loss:.4g}  {steps_per_second:.3g} steps/s  "
            f"left {_clock(here)}, plan {_clock(here + later)}"
        )
        self._bars.update(self._bar, completed=done, status=status)
        self._line(
            f"{self._title}  {done}/{self._work[self._phase].num_updates}  {status}",
            done,
        )

    def note(self, text: RenderableType) -> None:
        """Shows something that stays."""
        if self._active:
            self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leaves the terminal as it is."""
        self._bars.stop()

    def _line(self, text: str, done: int) -> None:
        last = done == self._work[self._phase].num_updates
        due = last or time.monotonic() - self._last_line > self._line_seconds
        if self._active and not self._terminal and due:
            print(text, file=sys.stderr, flush=True)
            self._last_line = time.monotonic()


class _StatusColumn(ProgressColumn):
    """The numbers that matter, as `Display.update` put them."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["status"])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )
