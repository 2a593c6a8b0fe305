"""All that a run has measured, by metric, for tables that know no names beforehand.

`eval.jsonl` may hold rows of other metrics and samplers than those of the main job,
with other fields; what is not understood is still shown, as it stands.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.report.rows import Evaluation, full_steps, read_rows

_OF_A_METRIC = ("metric", "features", "reference")  # what makes it another distance
_VARIANTS = ("gamma",)  # settings of a sampler
_OWN_COLUMN = ("ddim", "ancestral")


class Measure(NamedTuple):
    """A distance, with what its row says beyond an `Evaluation`."""

    evaluation: Evaluation
    variant: str  # of the sampler; "" where there is one alone
    floor: float | None  # the distance that perfect samples would have, if it is known


class Line(NamedTuple):
    """What a table shows for one number of steps N; None where nothing was measured."""

    num_steps: int
    student: Measure | None
    ddim: Measure | None  # this and the next two: of the undistilled teacher
    ancestral: Measure | None  # at the best of its settings
    other: Measure | None  # the best of all other samplers
    ratio: float | None  # student / teacher at its full number of steps


class Group(NamedTuple):
    """The distances of one kind, of one run."""

    title: str
    measures: list[Measure]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Those with a place on logarithmic axes, the best of each sampler."""
        best = {}
        for m in sorted(self.measures, key=lambda m: -m.evaluation.value):
            e = m.evaluation
            best[e.role, e.sampler, e.num_steps] = e
        return [e for e in best.values() if e.value > 0]

    @property
    def num_samples(self) -> list[int]:
        """The numbers of samples behind the distances."""
        return sorted({m.evaluation.num_samples for m in self.measures})

    @property
    def floor(self) -> float | None:
        """The distance that perfect samples would have, if it is known."""
        return next((m.floor for m in reversed(self.measures) if m.floor), None)

    @property
    def full_steps(self) -> int | None:
        """N_0, the number of steps at which the teacher is the measure of all."""
        return full_steps([m.evaluation for m in self.measures])

    @property
    def teacher(self) -> float | None:
        """The teacher's distance at its full number of steps."""
        full = self.full_steps
        found = self.of("teacher", ("ddim",), full) if full else None
        return found.evaluation.value if found else None

    def of(self, role: str, samplers: Sequence[str], num_steps: int) -> Measure | None:
        """Returns the best distance of a role with one of the samplers at N."""
        found = [
            m
            for m in self.measures
            if (m.evaluation.role, m.evaluation.num_steps) == (role, num_steps)
            and m.evaluation.sampler in samplers
        ]
        return min(found, key=lambda m: m.evaluation.value, default=None)

    def lines(self) -> list[Line]:
        """Returns the table, most steps first."""
        steps = {m.evaluation.num_steps for m in self.measures}
        return [self._line(n) for n in sorted(steps, reverse=True)]

    def _line(self, n: int) -> Line:
        others = {m.evaluation.sampler for m in self.measures} - set(_OWN_COLUMN)
        student = self.of("student", ("ddim",), n)
        return Line(
            n,
            student,
            self.of("teacher", ("ddim",), n),
            self.of("teacher", ("ancestral",), n),
            self.of("teacher", sorted(others), n),
            student.evaluation.value / self.teacher
            if student and self.teacher
            else None,
        )


def read_measures(workdir: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of `eval.jsonl`, those that lack something too."""
    return read_rows(Path(workdir) / "eval.jsonl")


def groups(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Sorts rows by metric; those that measure no distance of a model are left out.

    Where something was measured twice the later row counts.
    """
    by_title: dict[str, list[dict[str, Any]]] = {}
    for row in filter(_is_measure, rows):
        by_title.setdefault(_title(row), []).append(row)
    return [Group(title, _measures(found)) for title, found in by_title.items()]


def columns(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the names of all fields, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _is_measure(row: dict[str, Any]) -> bool:
    """Whether the row has what an `Evaluation` has, and a finite value."""
    numbers = ("phase", "num_steps", "value", "num_samples")
    words = ("role", "sampler", "metric")
    return (
        all(isinstance(row.get(name), str) for name in words)
        and all(isinstance(row.get(name), int | float) for name in numbers)
        and math.isfinite(row["value"])
        and row["num_steps"] >= 1
    )


def _title(row: dict[str, Any]) -> str:
    metric, *rest = (str(row[name]) for name in _OF_A_METRIC if row.get(name))
    return f"{metric} ({', '.join(rest)})" if rest else metric


def _measures(rows: Sequence[dict[str, Any]]) -> list[Measure]:
    several = {
        name
        for name in _VARIANTS
        if len({row[name] for row in rows if row.get(name) is not None}) > 1
    }
    latest = {}
    for row in rows:
        evaluation = Evaluation(**{name: row[name] for name in Evaluation._fields})
        evaluation = evaluation._replace(value=float(row["value"]))
        said = [
            f"{name} {row[name]}" for name in _VARIANTS if row.get(name) is not None
        ]
        floor = row.get("floor")
        measure = Measure(
            evaluation,
            ", ".join(said) if several else "",
            float(floor) if isinstance(floor, int | float) else None,
        )
        key = evaluation.role, evaluation.sampler, evaluation.num_steps, tuple(said)
        latest[key] = measure
    return list(latest.values())
