"""What each phase of a run has cost: updates, time, images a second, network calls.

Read off the rows of `metrics.jsonl` and the configuration, so that an unfinished run
shows what it has done so far.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from progdist.plan import Phase, make_plan
from progdist.workdir.rows import MetricsRow

# Network calls that an update makes for an image: forward, and backward as two.
_STUDENT_CALLS = 3


class Round(NamedTuple):
    """One phase; a field is None where the files do not say it."""

    phase: int
    num_steps: int
    updates: int
    planned: int | None
    loss: float
    seconds: float | None  # of training: without compiling, saving and evaluating
    images_per_second: float | None
    images: int | None
    calls: int | None  # network calls, in forward passes of one image

    @property
    def title(self) -> str:
        """Which phase it is."""
        return f"round {self.phase}" if self.phase else "teacher"


def plan_of(config: dict[str, Any]) -> tuple[Phase, ...]:
    """Returns the phases that a configuration leads to; of a malformed one, none."""
    try:
        base, distill = config["base"], config["distill"]
        return make_plan(
            base_updates=0 if config.get("teacher") else base["num_updates"],
            base_batch_size=base["batch_size"],
            round_updates=distill["num_updates"],
            round_batch_size=distill["batch_size"],
            start_steps=distill["start_steps"],
            end_steps=distill["end_steps"],
            ratio=distill["ratio"],
            long_rounds=distill["long_rounds"],
            long_updates=distill["long_num_updates"],
        )
    except (KeyError, TypeError, ValueError):
        return ()


def rounds_of(rows: Sequence[MetricsRow], config: dict[str, Any]) -> list[Round]:
    """Returns the phases that have rows. Rows given twice count as the last time."""
    by_phase: dict[int, dict[int, MetricsRow]] = {}
    for row in rows:
        by_phase.setdefault(row.phase, {})[row.step] = row
    planned = plan_of(config)
    return [
        _round(phase, [found[step] for step in sorted(found)], config, planned)
        for phase, found in sorted(by_phase.items())
    ]


def _round(
    phase: int,
    rows: Sequence[MetricsRow],
    config: dict[str, Any],
    planned: Sequence[Phase],
) -> Round:
    last = rows[-1]
    settings = config.get("distill" if phase else "base", {})
    batch_size = settings.get("batch_size")
    calls = _STUDENT_CALLS + (settings.get("ratio", 2) if phase else 0)
    images = last.step * batch_size if batch_size else None
    told = [row.steps_per_second or 0.0 for row in rows]
    speeds = [speed for speed in told if 0 < speed < math.inf]
    speed = float(statistics.median(speeds)) if speeds else None
    return Round(
        phase=phase,
        num_steps=last.num_steps,
        updates=last.step,
        planned=planned[phase].num_updates if phase < len(planned) else None,
        loss=last.loss,
        seconds=_seconds(rows) if len(speeds) == len(rows) else None,
        images_per_second=speed * batch_size if speed and batch_size else None,
        images=images,
        calls=images * calls if images is not None else None,
    )


def _seconds(rows: Sequence[MetricsRow]) -> float:
    before = [0, *(row.step for row in rows[:-1])]
    return sum(
        (row.step - step) / (row.steps_per_second or math.inf)
        for row, step in zip(rows, before, strict=True)
    )
