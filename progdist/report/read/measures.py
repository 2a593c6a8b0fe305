"""All that a run has measured, by kind, for tables that know no names beforehand.

`eval.jsonl` may hold rows of other metrics and samplers than those of the main job,
with other fields; what is not understood is still shown, as it stands.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.workdir import layout
from progdist.workdir.rows import EvalRow, Floor, read_typed

_OWN_COLUMN = ("ddim", "ancestral")
_HIGHER = ("IS", "precision", "recall")


class Measure(NamedTuple):
    """A value, with the settings of its sampler."""

    evaluation: EvalRow
    variant: str  # "gamma 0.3"; "" where there is one alone


class Kind(NamedTuple):
    """What distances have in common that can be compared with one another."""

    metric: str
    num_samples: int
    seed: int | None
    reference: str  # "1,797 of digits (train)"; "" where it is not known


class Line(NamedTuple):
    """What a table shows for one number of steps N; None where nothing was measured."""

    num_steps: int
    student: Measure | None  # by DDIM, for which it was distilled
    student_other: Measure | None  # the student's best by all other samplers
    ddim: Measure | None  # this and the next two: of the undistilled teacher
    ancestral: Measure | None  # at the best of its settings
    other: Measure | None  # the best of all other samplers
    ratio: float | None  # student / teacher at its full number of steps, if positive


class Group(NamedTuple):
    """The distances of one kind, of one run."""

    title: str
    kind: Kind
    measures: list[Measure]
    floor: Floor | None

    @property
    def evaluations(self) -> list[EvalRow]:
        """The best of each role, sampler and number of steps."""
        best = {}
        for m in self._worst_first(self.measures):
            e = m.evaluation
            best[e.role, e.sampler, e.num_steps] = e
        return list(best.values())

    @property
    def direction(self) -> str:
        """Which values are the better ones."""
        return direction(self.kind.metric)

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
        return self._worst_first(found)[-1] if found else None

    def lines(self) -> list[Line]:
        """Returns the table, most steps first."""
        steps = {m.evaluation.num_steps for m in self.measures}
        return [self._line(n) for n in sorted(steps, reverse=True)]

    def _line(self, n: int) -> Line:
        samplers = {m.evaluation.sampler for m in self.measures}
        student, teacher = self.of("student", ("ddim",), n), self.teacher
        values = (student.evaluation.value, teacher) if student and teacher else ()
        return Line(
            n,
            student,
            self.of("student", sorted(samplers - {"ddim"}), n),
            self.of("teacher", ("ddim",), n),
            self.of("teacher", ("ancestral",), n),
            self.of("teacher", sorted(samplers - set(_OWN_COLUMN)), n),
            values[0] / values[1] if values and min(values) > 0 else None,
        )

    def _worst_first(self, measures: Iterable[Measure]) -> list[Measure]:
        up = is_higher_better(self.kind.metric)
        return sorted(measures, key=lambda m: m.evaluation.value * (1 if up else -1))


def is_higher_better(metric: str) -> bool:
    """Whether the metric grows with quality, as scores and shares do."""
    return metric.split("-")[0] in _HIGHER


def direction(metric: str) -> str:
    """Returns which values of a metric are the better ones."""
    return f"{'higher' if is_higher_better(metric) else 'lower'} is better"


def full_steps(evaluations: Iterable[EvalRow]) -> int | None:
    """Returns N_0: the steps for which the teacher was made."""
    base = [e.trained_steps for e in evaluations if e.role == "teacher"]
    return max(base, default=None)


def read_evaluations(workdir: str | Path, metric: str | None = None) -> list[EvalRow]:
    """Reads `eval.jsonl`, one value per role, sampler and number of steps.

    Of a sampler's settings the best counts, as `groups` has it.

    Args:
      workdir: folder of the run.
      metric: the metric to keep; None keeps the one the file begins with.

    Raises:
      RowError: if a row is malformed.
    """
    rows = read_typed(EvalRow, Path(workdir, layout.EVALUATIONS))
    found = [g for g in groups(rows) if metric in (None, g.kind.metric)]
    return found[0].evaluations if found else []


def groups(rows: Sequence[EvalRow]) -> list[Group]:
    """Sorts rows by kind; values that are not finite are left out.

    Where something was measured twice the later row counts. A student counts in its own
    number of steps alone. The first kind of a metric is called by that alone.
    """
    by_kind: dict[Kind, list[EvalRow]] = {}
    for row in filter(_counts, rows):
        by_kind.setdefault(_kind(row), []).append(row)
    found: list[Group] = []
    for kind, members in by_kind.items():
        first = kind.metric not in [group.kind.metric for group in found]
        title = kind.metric if first else _long_title(kind)
        floor = next((row.floor for row in reversed(members) if row.floor), None)
        found.append(Group(title, kind, _measures(members), floor))
    return found


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all fields, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _counts(row: EvalRow) -> bool:
    of_its_own = row.role == "teacher" or row.num_steps == row.trained_steps
    return math.isfinite(row.value) and of_its_own


def _kind(row: EvalRow) -> Kind:
    reference = str(row.reference or "")
    return Kind(row.metric, row.num_samples, row.seed, reference)


def _long_title(kind: Kind) -> str:
    seed = "" if kind.seed is None else f", seed {kind.seed}"
    against = f" against {kind.reference}" if kind.reference else ""
    return f"{kind.metric} of {kind.num_samples:,} samples{against}{seed}"


def _measures(rows: Sequence[EvalRow]) -> list[Measure]:
    several = len({row.gamma for row in rows} - {None}) > 1
    latest = {}
    for row in rows:
        variant = f"gamma {row.gamma}" if several and row.gamma is not None else ""
        latest[row.role, row.sampler, row.num_steps, row.gamma] = Measure(row, variant)
    return list(latest.values())
