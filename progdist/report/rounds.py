"""What each phase of a run has cost: updates, time, images a second, network calls.

Read off the rows of `metrics.jsonl` and the configuration, so that an unfinished run
shows what it has done so far.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class Plan(NamedTuple):
    """What a configuration says about lengths; of malformed ones, nothing."""

    updates: list[int]  # of each phase

    @property
    def total(self) -> int:
        """Updates of all phases."""
        return sum(self.updates)


def plan_of(config: dict[str, Any]) -> Plan | None:
    """Returns the updates of the phases, as `progressive.plan` has them."""
    try:
        distill = config["distill"]
        counts = [0 if config.get("teacher") else config["base"]["num_updates"]]
        steps = distill["start_steps"]
        while steps > max(1, distill["end_steps"]) and distill["ratio"] > 1:
            counts.append(distill["num_updates"])
            steps //= distill["ratio"]
        num_long = min(distill["long_rounds"], len(counts) - 1)
        counts[len(counts) - num_long :] = [distill["long_num_updates"]] * num_long
    except (KeyError, TypeError):
        return None
    return Plan(counts)


def rounds_of(rows: Sequence[dict[str, Any]], config: dict[str, Any]) -> list[Round]:
    """Returns the phases that have rows. Rows given twice count as the last time."""
    by_phase: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_phase.setdefault(row["phase"], {})[row["step"]] = row
    planned = plan_of(config)
    return [
        _round(phase, [found[step] for step in sorted(found)], config, planned)
        for phase, found in sorted(by_phase.items())
    ]


def _round(
    phase: int,
    rows: Sequence[dict[str, Any]],
    config: dict[str, Any],
    planned: Plan | None,
) -> Round:
    last = rows[-1]
    settings = config.get("distill" if phase else "base", {})
    batch_size = settings.get("batch_size")
    calls = _STUDENT_CALLS + (settings.get("ratio", 2) if phase else 0)
    images = last["step"] * batch_size if batch_size else None
    speeds = [row["steps_per_second"] for row in rows if row.get("steps_per_second")]
    speed = float(statistics.median(speeds)) if speeds else None
    return Round(
        phase=phase,
        num_steps=last["num_steps"],
        updates=last["step"],
        planned=planned.updates[phase]
        if planned and phase < len(planned.updates)
        else None,
        loss=float(last["loss"]),
        seconds=_seconds(rows) if len(speeds) == len(rows) else None,
        images_per_second=speed * batch_size if speed and batch_size else None,
        images=images,
        calls=images * calls if images is not None else None,
    )


def _seconds(rows: Sequence[dict[str, Any]]) -> float:
    before = [0, *(row["step"] for row in rows[:-1])]
    return sum(
        (row["step"] - step) / row["steps_per_second"]
        for row, step in zip(rows, before, strict=True)
    )
