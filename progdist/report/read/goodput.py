"""Goodput: the share of a run's time that its results needed.

It is (training + sampling) / elapsed:

- training: time of the updates in metrics.jsonl at their speed. Each update counts
  once, however often it was repeated after a kill.
- sampling: time of sampling for the evaluations that the configuration asks for.
- elapsed: time from the first start to the last end, without that after "done".

The rest is lost: start, compilation, saving, metrics, figures, repeated updates, and
the wait for a restart.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from progdist.report.read.rounds import Round, rounds_of, sampling_seconds
from progdist.report.read.settings import Settings, read_settings
from progdist.report.read.starts import Start, starts_of
from progdist.report.text import duration_text, share_text
from progdist.workdir import layout
from progdist.workdir.rows import EvalRow, MetricsRow, StartRow, read_typed


class Goodput(NamedTuple):
    """Seconds of a run.

    Attributes:
      training: of the updates, each counted once.
      sampling: of sampling for the run's own evaluations.
      waiting: from recorded ends to the next start; part of `elapsed`.
      elapsed: from the first start to the last end.
    """

    training: float
    sampling: float
    waiting: float
    elapsed: float

    @property
    def share(self) -> float:
        """Goodput, usually 0 to 1; times of starts and ends are whole seconds."""
        return (self.training + self.sampling) / self.elapsed

    def __str__(self) -> str:
        """Returns the share and its parts in words."""
        parts = {"training": self.training, "sampling": self.sampling}
        parts["waiting"] = self.waiting
        words = ", ".join(f"{n} {duration_text(s)}" for n, s in parts.items() if s)
        return f"{share_text(self.share)} of {duration_text(self.elapsed)}: {words}"


def goodput_of(
    starts: Sequence[Start],
    rounds: Sequence[Round],
    evaluations: Sequence[EvalRow],
    settings: Settings,
) -> Goodput | None:
    """Returns the goodput of a run; None before its first row, or without times."""
    training = [r.seconds for r in rounds if r.seconds is not None]
    times = _times(starts)
    if not times or not training or len(training) < len(rounds):
        return None
    steps = _evaluated_steps(rounds, settings)
    own = [r for r in evaluations if r.num_steps in steps and _is_own(r, settings)]
    return Goodput(sum(training), sampling_seconds(own) or 0.0, *times)


def read_goodput(workdir: Path) -> Goodput | None:
    """Reads the goodput of the run in a workdir that has ended.

    Raises:
      FormatError: if a row is malformed.
    """
    starts = read_typed(StartRow, workdir / layout.STARTS)
    rows = read_typed(MetricsRow, workdir / layout.METRICS)
    evaluations = read_typed(EvalRow, workdir / layout.EVALUATIONS)
    settings = read_settings(workdir)
    return goodput_of(starts_of(starts), rounds_of(rows, ()), evaluations, settings)


def _times(starts: Sequence[Start]) -> tuple[float, float] | None:
    """Returns the seconds between starts, and all; None if they are not known."""
    waiting = elapsed = 0.0
    begins = [start.begin for start in starts]
    for start, begin, after in itertools.zip_longest(starts, begins, begins[1:]):
        span = start.seconds
        if start.end != "done" and begin is not None and after is not None:
            span = after - begin
            waiting += 0.0 if start.seconds is None else span - start.seconds
        if span is None:
            return None
        elapsed += span
    return (waiting, elapsed) if elapsed > 0 else None


def _evaluated_steps(rounds: Sequence[Round], settings: Settings) -> set[int]:
    """Returns the numbers of steps in which the run itself samples."""
    numbers = {r.num_steps for r in rounds}
    start, most = map(settings.get, ("distill.start_steps", "evaluation.max_steps"))
    if isinstance(start, int):  # a given teacher has no round
        numbers.add(start)
    return {min(n, most) if isinstance(most, int) and most else n for n in numbers}


def _is_own(row: EvalRow, settings: Settings) -> bool:
    """Whether the run itself samples so, unlike other commands in its workdir."""
    if row.role == "student" and row.num_steps != row.trained_steps:
        return False
    if (row.precision or "default") != settings.get("precision.sampling", "default"):
        return False
    expected = {
        "num_samples": settings.get("evaluation.num_samples"),
        "seed": settings.get("evaluation.seed"),
    }
    samplers = {"ddim"} if row.role == "student" else _baselines(settings)
    gamma = settings.get("evaluation.gamma") if row.sampler == "ancestral" else None
    is_one = row.sampler in samplers and row.gamma == gamma
    return is_one and all(getattr(row, n) == v for n, v in expected.items())


def _baselines(settings: Settings) -> Sequence[str]:
    names = settings.get("evaluation.baselines")
    return names if isinstance(names, list) else ()
