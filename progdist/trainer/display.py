"""Progress display of a run: a bar per phase, metrics, remaining time."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from progdist.plan import Phase


class Display:
    """A progress bar per phase on a terminal; elsewhere an occasional line."""

    def __init__(
        self, phases: Sequence[Phase], active: bool = True, line_seconds: float = 15.0
    ) -> None:
        """Opens the display of a plan.

        Args:
          phases: the plan.
          active: whether to show anything.
          line_seconds: minimum time between lines when there is no terminal.
        """
        self._phases = phases
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

    def start(self, phase: Phase, done: int) -> None:
        """Starts the bar of a phase, `done` updates into it."""
        self._phase = phase
        self._bar = self._bars.add_task(
            phase.title, total=phase.num_updates, completed=done, status=""
        )

    def update(self, done: int, loss: float, steps_per_second: float) -> None:
        """Shows an interval's metrics and the remaining time."""
        phase = self._phase
        here = (phase.num_updates - done) / steps_per_second
        second_per_pass = 1 / steps_per_second / _passes(phase)
        later = sum(
            p.num_updates * _passes(p) * second_per_pass
            for p in self._phases[phase.number + 1 :]
        )
        status = (
            f"loss {loss:.4g}  {steps_per_second:.3g} steps/s  "
            f"left {_clock(here)}, plan {_clock(here + later)}"
        )
        self._bars.update(self._bar, completed=done, status=status)
        is_last = done == phase.num_updates
        self._line(f"{phase.title}  {done}/{phase.num_updates}  {status}", is_last)

    def note(self, text: RenderableType) -> None:
        """Prints a message above the bars."""
        if self._active:
            self._console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Stops drawing and leaves the bars on the terminal."""
        self._bars.stop()

    def _line(self, text: str, is_last: bool) -> None:
        due = is_last or time.monotonic() - self._last_line > self._line_seconds
        if self._active and not self._terminal and due:
            print(text, file=sys.stderr, flush=True)
            self._last_line = time.monotonic()


class _StatusColumn(ProgressColumn):
    """Column with the status text that `Display.update` set."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["status"])


def _passes(phase: Phase) -> int:
    """Returns the number of network passes in one update."""
    return phase.passes * phase.batch_size


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )
