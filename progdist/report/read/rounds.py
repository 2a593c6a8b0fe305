"""Cost of each phase: updates, time, images per second, network calls.

Computed from the rows of `metrics.jsonl` and `eval.jsonl` and the plan, so that an
unfinished run shows its progress.
"""

import math
import operator
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from progdist.plan import Phase
from progdist.workdir.rows import EvalRow, MetricsRow


class Round(NamedTuple):
    """Cost of one phase; a field is None if the files do not have it."""

    phase: int
    num_steps: int
    updates: int
    planned: int | None
    loss: float
    seconds: float | None  # training alone, without compiling, saving, evaluating
    sampling: float | None  # seconds of sampling for the evaluations
    images_per_second: float | None
    tflops: float | None  # model TFLOP/s of all devices
    utilisation: float | None  # their share of the devices' peak
    images: int | None
    calls: int | None  # network calls, in forward passes of one image

    @property
    def title(self) -> str:
        """Name of the phase in the page."""
        return f"round {self.phase}" if self.phase else "teacher"


def rounds_of(
    rows: Sequence[MetricsRow],
    plan: Sequence[Phase],
    evaluations: Sequence[EvalRow] = (),
) -> list[Round]:
    """Returns the phases that have rows; the last row of a step counts."""
    by_phase: dict[int, dict[int, MetricsRow]] = {}
    for row in rows:
        by_phase.setdefault(row.phase, {})[row.step] = row
    planned = {phase.number: phase for phase in plan}
    return [
        _round(
            [steps[step] for step in sorted(steps)], planned.get(number), evaluations
        )
        for number, steps in sorted(by_phase.items())
    ]


def _round(
    rows: Sequence[MetricsRow], phase: Phase | None, evaluations: Iterable[EvalRow]
) -> Round:
    last = rows[-1]
    images = last.step * phase.batch_size if phase else None
    speeds = _positive(row.steps_per_second for row in rows)
    speed = _median(speeds)
    return Round(
        phase=last.phase,
        num_steps=last.num_steps,
        updates=last.step,
        planned=phase.num_updates if phase else None,
        loss=last.loss,
        seconds=_seconds(rows) if len(speeds) == len(rows) else None,
        sampling=sampling_seconds(
            row for row in evaluations if row.num_steps == last.num_steps
        ),
        images_per_second=speed * phase.batch_size if speed and phase else None,
        tflops=_median(_positive(row.tflops_per_second for row in rows)),
        utilisation=_median(_positive(row.utilisation for row in rows)),
        images=images,
        calls=images * phase.passes if phase and images is not None else None,
    )


def _positive(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value and 0 < value < math.inf]


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _seconds(rows: Sequence[MetricsRow]) -> float:
    before = [0, *(row.step for row in rows[:-1])]
    return sum(
        (row.step - step) / (row.steps_per_second or math.inf)
        for row, step in zip(rows, before, strict=True)
    )


def sampling_seconds(evaluations: Iterable[EvalRow]) -> float | None:
    """Returns the time of sampling, of which several metrics share the images."""
    # All that the images depend on.
    images_of = operator.attrgetter(
        *("role", "num_steps", "sampler", "gamma", "num_samples", "seed"),
        *("params", "precision"),
    )
    seconds = {
        images_of(row): row.milliseconds * row.num_samples / 1000
        for row in evaluations
        if row.milliseconds and 0 < row.milliseconds < math.inf
    }
    return sum(seconds.values()) if seconds else None
