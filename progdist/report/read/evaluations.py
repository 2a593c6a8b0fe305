"""The evaluations of a run, grouped into tables for any metrics and samplers."""

import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.workdir import layout
from progdist.workdir.rows import EvalRow, Floor, read_typed

_OWN_COLUMN = ("ddim", "ancestral")
_HIGHER = ("IS", "precision", "recall")


class Kind(NamedTuple):
    """Properties that values must share to be comparable."""

    metric: str
    num_samples: int
    seed: int | None
    reference: str  # "1,797 of digits (train)"; "" if unknown
    precision: str = "default"  # of the network's products


class Line(NamedTuple):
    """A line of a table for one number of steps N; None for missing evaluations."""

    num_steps: int
    student: EvalRow | None  # with DDIM, for which it was distilled
    student_other: EvalRow | None  # the student's best among all other samplers
    ddim: EvalRow | None  # this and the next two are the teacher's
    ancestral: EvalRow | None  # at its best gamma
    other: EvalRow | None  # the best among all other samplers
    ratio: float | None  # student / teacher at its full number of steps, if positive


class Group(NamedTuple):
    """The rows of one kind in one run; the latest of repeated ones."""

    kind: Kind
    rows: list[EvalRow]
    floor: Floor | None

    @property
    def evaluations(self) -> list[EvalRow]:
        """The best row of each role, sampler and number of steps."""
        best = {(r.role, r.sampler, r.num_steps): r for r in self._worst_first()}
        return list(best.values())

    @property
    def direction(self) -> str:
        """Direction of better values, in words."""
        return direction(self.kind.metric)

    @property
    def full_steps(self) -> int | None:
        """The teacher's largest number of DDIM steps, up to N_0."""
        steps = (
            row.num_steps
            for row in self.rows
            if (row.role, row.sampler) == ("teacher", "ddim")
            and row.num_steps <= row.trained_steps
        )
        return max(steps, default=None)

    @property
    def teacher(self) -> float | None:
        """The teacher's value at its full number of steps."""
        full = self.full_steps
        row = self._best("teacher", ("ddim",), full) if full else None
        return row.value if row else None

    def variant(self, row: EvalRow) -> str:
        """Returns, say, "gamma 0.3"; "" if the sampler has only one setting."""
        several = len({r.gamma for r in self.rows} - {None}) > 1
        return f"gamma {row.gamma}" if several and row.gamma is not None else ""

    def lines(self) -> list[Line]:
        """Returns the table, most steps first."""
        steps = {row.num_steps for row in self.rows}
        return [self._line(n) for n in sorted(steps, reverse=True)]

    def _line(self, n: int) -> Line:
        samplers = {row.sampler for row in self.rows}
        student, teacher = self._best("student", ("ddim",), n), self.teacher
        values = (student.value, teacher) if student and teacher else ()
        return Line(
            n,
            student,
            self._best("student", samplers - {"ddim"}, n),
            self._best("teacher", ("ddim",), n),
            self._best("teacher", ("ancestral",), n),
            self._best("teacher", samplers - set(_OWN_COLUMN), n),
            values[0] / values[1] if values and min(values) > 0 else None,
        )

    def _best(self, role: str, samplers: Container[str], n: int) -> EvalRow | None:
        rows = [r for r in self._worst_first() if (r.role, r.num_steps) == (role, n)]
        return next((r for r in reversed(rows) if r.sampler in samplers), None)

    def _worst_first(self) -> list[EvalRow]:
        sign = 1 if is_higher_better(self.kind.metric) else -1
        return sorted(self.rows, key=lambda row: row.value * sign)


def is_higher_better(metric: str) -> bool:
    """Whether the metric grows with quality, as scores and shares do."""
    return metric.split("-")[0] in _HIGHER


def direction(metric: str) -> str:
    """Returns which values of a metric are better, in words."""
    return f"{'higher' if is_higher_better(metric) else 'lower'} is better"


def read_evaluations(workdir: str | Path, metric: str | None = None) -> list[EvalRow]:
    """Reads `eval.jsonl`: the best row of each role, sampler and number of steps.

    Args:
      workdir: folder of the run.
      metric: the metric to keep; None keeps the first one in the file.

    Raises:
      FormatError: if a row is malformed.
    """
    rows = read_typed(EvalRow, Path(workdir, layout.EVALUATIONS))
    matches = [g for g in groups(rows) if metric in (None, g.kind.metric)]
    return matches[0].evaluations if matches else []


def groups(rows: Sequence[EvalRow]) -> list[Group]:
    """Groups rows by kind; leaves out values that are not finite.

    A student counts only at its own number of steps.
    """
    by_kind: dict[Kind, list[EvalRow]] = {}
    for row in rows:
        of_its_own = row.role == "teacher" or row.num_steps == row.trained_steps
        if math.isfinite(row.value) and of_its_own:
            reference = str(row.reference or "")
            precision = row.precision or "default"
            kind = Kind(row.metric, row.num_samples, row.seed, reference, precision)
            by_kind.setdefault(kind, []).append(row)
    return [_group(kind, rows) for kind, rows in by_kind.items()]


def titles(kinds: Collection[Kind]) -> dict[Kind, str]:
    """Returns a title for each kind: its metric, and what sets it apart from others."""
    return {kind: _title(kind, [k for k in kinds if k[0] == kind[0]]) for kind in kinds}


def columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the names of all fields, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _group(kind: Kind, rows: Sequence[EvalRow]) -> Group:
    latest = {(r.role, r.sampler, r.num_steps, r.gamma): r for r in rows}
    floor = next((row.floor for row in reversed(rows) if row.floor), None)
    return Group(kind, list(latest.values()), floor)


def _title(kind: Kind, peers: Sequence[Kind]) -> str:
    title = kind.metric
    if any(k.num_samples != kind.num_samples for k in peers):
        title += f" of {kind.num_samples:,} samples"
    if any(k.reference != kind.reference for k in peers):
        title += f" against {kind.reference or 'unnamed images'}"
    if any(k.seed != kind.seed for k in peers):
        title += f", seed {'unknown' if kind.seed is None else kind.seed}"
    if any(k.precision != kind.precision for k in peers):
        title += f", precision {kind.precision}"
    return title
