"""Cost of each phase: updates, time, images per second, network calls.

Computed from the rows of `metrics.jsonl` and the plan, so that an unfinished run shows
its progress.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from progdist.plan import Phase
from progdist.workdir.rows import MetricsRow


class Round(NamedTuple):
    """Cost of one phase; a field is None if the files do not have it."""

    phase: int
    num_steps: int
    updates: int
    planned: int | None
    loss: float
    seconds: float | None  # training alone, without compiling, saving, evaluating
    images_per_second: float | None
    images: int | None
    calls: int | None  # network calls, in forward passes of one image

    @property
    def title(self) -> str:
        """Name of the phase in the page."""
        return f"round {self.phase}" if self.phase else "teacher"


def rounds_of(rows: Sequence[MetricsRow], plan: Sequence[Phase]) -> list[Round]:
    """Returns the phases that have rows; the last row of a step counts."""
    by_phase: dict[int, dict[int, MetricsRow]] = {}
    for row in rows:
        by_phase.setdefault(row.phase, {})[row.step] = row
    planned = {phase.number: phase for phase in plan}
    return [
        _round([steps[step] for step in sorted(steps)], planned.get(number))
        for number, steps in sorted(by_phase.items())
    ]


def _round(rows: Sequence[MetricsRow], phase: Phase | None) -> Round:
    last = rows[-1]
    images = last.step * phase.batch_size if phase else None
    speeds = [s for row in rows if 0 < (s := row.steps_per_second or 0.0) < math.inf]
    speed = float(statistics.median(speeds)) if speeds else None
    return Round(
        phase=last.phase,
        num_steps=last.num_steps,
        updates=last.step,
        planned=phase.num_updates if phase else None,
        loss=last.loss,
        seconds=_seconds(rows) if len(speeds) == len(rows) else None,
        images_per_second=speed * phase.batch_size if speed and phase else None,
        images=images,
        calls=images * phase.passes if phase and images is not None else None,
    )


def _seconds(rows: Sequence[MetricsRow]) -> float:
    before = [0, *(row.step for row in rows[:-1])]
    return sum(
        (row.step - step) / (row.steps_per_second or math.inf)
        for row, step in zip(rows, before, strict=True)
    )
