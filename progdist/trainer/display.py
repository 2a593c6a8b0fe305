"""Display of a run: progress on stderr, results on stdout."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from progdist.data import progress
from progdist.data.progress import WIDTH, clock_text
from progdist.errors import shown
from progdist.plan import Phase

_WEIGHT = 0.3  # of an interval in the smoothed speed
_LEAST_BAR = 6  # columns
_MOST_TITLE = 0.45  # of the width


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
        line_seconds: float = progress.LINE_SECONDS,
        sampling_passes: Callable[[Phase], int] = lambda phase: 0,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        """Opens the display of a plan.

        Args:
          phases: the plan.
          active: whether to show anything.
          line_seconds: minimum time between lines when there is no terminal.
          sampling_passes: network passes of the evaluation after a phase.
          clock: the time in seconds.
          console: where progress is shown; by default stderr.
        """
        self._phases = phases
        self._active = active
        self._line_seconds, self._last_line = line_seconds, -math.inf
        self._sampling_passes, self._clock = sampling_passes, clock
        self._pass_seconds, self._sampling_seconds = 0.0, 0.0  # per pass; 0 if unknown
        self._trained: float | None = None  # when the phase was; None before
        self._compiled: set[str] = set()  # kinds of phases
        self._console = console or Console(stderr=True)
        self._terminal = self._console.is_terminal
        self._bars = progress.make_bars(self._console)
        if active:
            self._bars.start()

    def start(self, phase: Phase, done: int) -> None:
        """Starts the bar of a phase, `done` updates into it."""
        if self._trained is not None and (passes := self._sampling_passes(self._phase)):
            self._sampling_seconds = (self._clock() - self._trained) / passes
        self._phase, self._trained = phase, None
        self._done, self._intervals = done, 0
        compiles = phase.kind not in self._compiled and done < phase.num_updates
        self._statuses = ["compiling …" * compiles]
        self._bar = self._bars.add_task(
            phase.title, total=phase.num_updates, completed=done, status=""
        )
        if not compiles:  # nothing to tell before the first interval
            self._last_line = self._clock()
        self._show(is_due=compiles)

    def step(self) -> None:
        """Shows that another update is under way, once its step is compiled."""
        self._done += 1
        if self._phase.kind not in self._compiled:
            self._compiled.add(self._phase.kind)
            self._statuses = [""]
        self._show()

    def update(self, done: int, loss: float, steps_per_second: float) -> None:
        """Shows an interval's metrics and the remaining time."""
        phase = self._phase
        self._compiled.add(phase.kind)
        self._smooth(1 / steps_per_second / _passes(phase))
        here = (phase.num_updates - done) * _passes(phase) * self._pass_seconds
        whole = clock_text(here + self._seconds_after(phase))
        is_last = done == phase.num_updates
        self._done, self._trained = done, self._clock() if is_last else None
        left = f"left {clock_text(here)}, run {whole}"
        loss_text, speed = f"loss {loss:.4g}", f"{steps_per_second:.3g}"
        self._statuses = [
            f"{loss_text}  {speed} updates/s  {left}",
            f"{loss_text}  {speed}/s  {left}",
            f"{loss_text}  {left}",
            f"{loss_text}  left {clock_text(here)}",
            loss_text,
        ]
        if is_last and self._terminal:  # the bar stays, beside longer titles
            self._statuses = [loss_text]
        self._show(is_last)

    @contextlib.contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows a bar while something is counted, as `progress.counting` does."""
        if not self._active:
            yield lambda count: None
        elif self._terminal:
            short = title[: int(_MOST_TITLE * self._console.width)]
            with progress.bar(self._bars, short, total) as advance:
                yield advance
        else:
            with progress.lines(title, total) as advance:
                yield advance

    def note(self, text: str | Text) -> None:
        """Prints a message above the bars."""
        if isinstance(text, str):
            text = shown(text)
        if self._active:  # in one line, however long
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def result(self, result: str | Table) -> None:
        """Prints a line of results, or a table after the last line, on stdout."""
        if self._active and isinstance(result, str):
            print(result, flush=True)
        elif self._active:
            Console().print(result)

    def close(self) -> None:
        """Stops drawing and leaves the bars on the terminal."""
        self._bars.stop()

    def _show(self, is_due: bool = False) -> None:
        """Shows the phase's progress, with the longest status that fits."""
        title, total, done = self._phase.title, self._phase.num_updates, self._done
        line = f"{title}  {done}/{total}  "
        room = self._room() if self._terminal else WIDTH - len(line)
        status = next((s for s in self._statuses if len(s) <= room), "")
        self._bars.update(self._bar, completed=done, status=status)
        is_due = is_due or self._clock() - self._last_line >= self._line_seconds
        if self._active and not self._terminal and is_due:
            progress.print_line((line + status).rstrip())
            self._last_line = self._clock()

    def _room(self) -> int:
        """Returns the columns that the other columns of the bars leave to a status."""
        titles = max(len(task.description) for task in self._bars.tasks)
        counts = max(2 * len(f"{task.total or 0:.0f}") + 1 for task in self._bars.tasks)
        return self._console.width - titles - counts - _LEAST_BAR - 3

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


def _passes(phase: Phase) -> int:
    """Returns the number of network passes in one update."""
    return phase.passes * phase.batch_size
