"""All that a run has measured, by kind, for tables that know no names beforehand.

`eval.jsonl` may hold rows of other metrics and samplers than those of the main job,
with other fields; what is not understood is still shown, as it stands.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.workdir.rows import Evaluation, is_number, is_whole, read_rows, require

_VARIANTS = ("gamma",)  # settings of a sampler
_OWN_COLUMN = ("ddim", "ancestral")
_HIGHER = ("IS", "precision", "recall")


class Measure(NamedTuple):
    """A distance, with what its row says beyond an `Evaluation`."""

    evaluation: Evaluation
    variant: str  # of the sampler; "" where there is one alone


class Kind(NamedTuple):
    """What distances have in common that can be compared with one another."""

    metric: str
    num_samples: int
    seed: int | None
    reference: str  # "1,797 of digits (train)"; "" where it is not known


class Floor(NamedTuple):
    """What real images come to, as two halves of the data have it.

    Attributes:
      value: for a Fréchet distance, of as many images as there are samples and others.
      num: how many images a half has.
      measured: the value between the halves, where it is another.
    """

    value: float
    num: int
    measured: float | None


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
    def evaluations(self) -> list[Evaluation]:
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


def full_steps(evaluations: Iterable[Evaluation]) -> int | None:
    """Returns N_0: the steps for which the teacher was made."""
    base = [e.trained_steps for e in evaluations if e.role == "teacher"]
    return max(base, default=None)


def read_measures(workdir: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of `eval.jsonl`, those that lack something too."""
    return read_rows(Path(workdir) / "eval.jsonl")


def read_evaluations(
    workdir: str | Path, metric: str | None = None
) -> list[Evaluation]:
    """Reads `eval.jsonl`, one distance per role, sampler and number of steps.

    Of a sampler's settings the best counts, as `groups` has it.

    Args:
      workdir: folder of the run.
      metric: the distance to keep; None keeps the one the file begins with.

    Raises:
      RowError: if a row lacks one of the fields of `Evaluation`.
    """
    path = Path(workdir) / "eval.jsonl"
    rows = [require(row, Evaluation._fields, path) for row in read_rows(path)]
    found = [g for g in groups(rows) if metric in (None, g.kind.metric)]
    return found[0].evaluations if found else []


def groups(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Sorts rows by kind; those that measure no distance of a model are left out.

    Where something was measured twice the later row counts. A student counts in its own
    number of steps alone. The first kind of a metric is called by that alone.
    """
    by_kind: dict[Kind, list[dict[str, Any]]] = {}
    for row in filter(_is_measure, rows):
        by_kind.setdefault(_kind(row), []).append(row)
    found: list[Group] = []
    for kind, members in by_kind.items():
        first = kind.metric not in [group.kind.metric for group in found]
        title = kind.metric if first else _long_title(kind)
        found.append(Group(title, kind, _measures(members), _floor(members)))
    return found


def columns(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the names of all fields, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _is_measure(row: dict[str, Any]) -> bool:
    """Whether the row has what an `Evaluation` has, and a finite value."""
    counts = ("phase", "num_steps", "trained_steps", "num_samples")
    words = ("role", "sampler", "metric")
    return (
        all(isinstance(row.get(name), str) for name in words)
        and all(is_whole(row.get(name), 0) for name in counts)
        and all(row.get(n) is None or is_number(row[n]) for n in _VARIANTS)
        and is_number(row.get("value"))
        and math.isfinite(row["value"])
        and row["num_steps"] >= 1
        and (row["role"] == "teacher" or row["num_steps"] == row["trained_steps"])
    )


def _kind(row: dict[str, Any]) -> Kind:
    seed, reference = row.get("seed"), row.get("reference")
    told = ""
    if isinstance(reference, dict) and is_whole(reference.get("count")):
        name, split = reference.get("data"), reference.get("split")
        told = f"{reference['count']:,} of {name} ({split})"
    seed = seed if is_whole(seed) else None
    return Kind(row["metric"], row["num_samples"], seed, told)


def _long_title(kind: Kind) -> str:
    seed = "" if kind.seed is None else f", seed {kind.seed}"
    against = f" against {kind.reference}" if kind.reference else ""
    return f"{kind.metric} of {kind.num_samples:,} samples{against}{seed}"


def _floor(rows: Sequence[dict[str, Any]]) -> Floor | None:
    for row in reversed(rows):
        match row.get("floor"):
            case {"value": value, "count": num, **more} if is_number(
                value
            ) and is_whole(num, 1):
                measured = more.get("measured")
                known = is_number(measured) and measured != value
                return Floor(value, num, measured if known else None)
    return None


def _measures(rows: Sequence[dict[str, Any]]) -> list[Measure]:
    several = any(
        len({row[name] for row in rows if row.get(name) is not None}) > 1
        for name in _VARIANTS
    )
    latest = {}
    for row in rows:
        evaluation = Evaluation(**{name: row[name] for name in Evaluation._fields})
        evaluation = evaluation._replace(value=float(row["value"]))
        said = [
            f"{name} {row[name]}" for name in _VARIANTS if row.get(name) is not None
        ]
        key = evaluation.role, evaluation.sampler, evaluation.num_steps, tuple(said)
        latest[key] = Measure(evaluation, ", ".join(said) if several else "")
    return list(latest.values())
