"""Progress display of a run: a bar per phase, metrics, remaining time."""

import math
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from progdist.plan import Phase

_WEIGHT = 0.3  # of an interval in the smoothed speed


class Display:
    """A progress bar per phase on a terminal; elsewhere an occasional line.

    The remaining time follows from the work that is left, in network passes per
    example: of training at its smoothed speed, and of evaluation at that of the last
    evaluation; until one has ended, at that of training.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        active: bool = True,
        line_seconds: float = 15.0,
        num_samples: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the display of a plan.

        Args:
          phases: the plan.
          active: whether to show anything.
          line_seconds: minimum time between lines when there is no terminal.
          num_samples: number of images that each evaluation samples.
          clock: the time in seconds.
        """
        self._phases = phases
        self._active = active
        self._line_seconds, self._last_line = line_seconds, -math.inf
        self._num_samples, self._clock = num_samples, clock
        self._pass_seconds, self._sampling_seconds = 0.0, 0.0  # per pass; 0 if unknown
        self._trained: float | None = None  # when the phase was; None before
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
        if self._trained is not None and self._num_samples:
            seconds = self._clock() - self._trained
            self._sampling_seconds = seconds / self._sampling_passes(self._phase)
        self._phase, self._trained = phase, None
        self._intervals = 0
        self._bar = self._bars.add_task(
            phase.title, total=phase.num_updates, completed=done, status=""
        )

    def update(self, done: int, loss: float, steps_per_second: float) -> None:
        """Shows an interval's metrics and the remaining time."""
        phase = self._phase
        self._smooth(1 / steps_per_second / _passes(phase))
        here = (phase.num_updates - done) * _passes(phase) * self._pass_seconds
        status = (
            f"loss {loss:.4g}  {steps_per_second:.3g} steps/s  "
            f"left {_clock(here)}, plan {_clock(here + self._seconds_after(phase))}"
        )
        self._bars.update(self._bar, completed=done, status=status)
        is_last = done == phase.num_updates
        self._trained = self._clock() if is_last else None
        self._line(f"{phase.title}  {done}/{phase.num_updates}  {status}", is_last)

    def _smooth(self, pass_seconds: float) -> None:
        # The first interval of a phase may hold nothing but a compilation.
        weight = 1.0 if self._intervals < 2 else _WEIGHT
        self._pass_seconds += weight * (pass_seconds - self._pass_seconds)
        self._intervals += 1

    def _seconds_after(self, phase: Phase) -> float:
        """Returns the time of what follows the phase's last update."""
        later = self._phases[phase.number + 1 :]
        training = sum(p.num_updates * _passes(p) for p in later)
        sampling = sum(map(self._sampling_passes, self._phases[phase.number :]))
        per_sampling = self._sampling_seconds or self._pass_seconds
        return training * self._pass_seconds + sampling * per_sampling

    def _sampling_passes(self, phase: Phase) -> int:
        """Returns the network passes of an evaluation; students have two baselines."""
        samplings = 2 if phase.kind == "base" else 3
        return samplings * phase.num_steps * self._num_samples

    def note(self, text: RenderableType) -> None:
        """Prints a message above the bars."""
        if self._active:
            is_line = isinstance(text, str)  # which must not be broken into several
            self._console.print(text, highlight=False, markup=False, soft_wrap=is_line)

    def close(self) -> None:
        """Stops drawing and leaves the bars on the terminal."""
        self._bars.stop()

    def _line(self, text: str, is_last: bool) -> None:
        due = is_last or self._clock() - self._last_line > self._line_seconds
        if self._active and not self._terminal and due:
            print(text, file=sys.stderr, flush=True)
            self._last_line = self._clock()


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
