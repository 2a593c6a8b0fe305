"""Contents of the workdir of a finished or unfinished run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import InputError
from progdist.plan import Phase, read_plan
from progdist.report.read.curves import Curve, curves_of
from progdist.report.read.evaluations import Group, groups
from progdist.report.read.goodput import Goodput, goodput_of
from progdist.report.read.neighbours import Neighbours, load_neighbours
from progdist.report.read.profiles import Profile, profiles_of
from progdist.report.read.rounds import Round, rounds_of
from progdist.report.read.samples import Samples, load_samples
from progdist.report.read.settings import Settings, read_settings
from progdist.report.read.starts import Start, starts_of
from progdist.report.read.trajectories import Paths, load_trajectories
from progdist.report.text import printable, steps_text
from progdist.workdir import layout
from progdist.workdir.rows import (
    EvalRow,
    MetricsRow,
    StartRow,
    read_row,
    read_rows,
    read_typed,
)

_FILES = layout.CONFIG, layout.METRICS, layout.EVALUATIONS


class Run(NamedTuple):
    """Contents of a workdir; fields are empty if nothing was written yet."""

    path: Path
    name: str
    settings: Settings  # fields of config.json, such as "data.name"
    plan: tuple[Phase, ...]  # empty if there is no plan.json
    starts: list[Start]
    rows: list[MetricsRow]
    curves: list[Curve]
    profiles: list[Profile]
    rounds: list[Round]
    goodput: Goodput | None
    measures: list[dict[str, Any]]  # raw rows of eval.jsonl
    groups: list[Group]
    students: dict[int, Samples]  # by number of steps
    teachers: dict[int, Samples]
    paths: Paths
    neighbours: Neighbours | None

    @property
    def start(self) -> StartRow:
        """Row of the last start."""
        return self.starts[-1].row if self.starts else StartRow()

    @property
    def updates(self) -> int:
        """Updates done in all phases."""
        return max((row.global_step for row in self.rows), default=0)

    @property
    def is_finished(self) -> bool:
        """Whether the plan's last student has been trained and evaluated.

        Without evaluation, or without a plan, whether the last start ended.
        """
        ended = bool(self.starts) and self.starts[-1].end == "done"
        if not self.plan or not self.settings.get("evaluation.enabled", True):
            return ended
        last = self.plan[-1]
        measured = any(row["phase"] == last.number for row in self.measures)
        return measured and self.updates >= last.end_update

    @property
    def state(self) -> str:
        """Progress of the run, in words."""
        if self.is_finished:
            return "finished"
        if not self.rounds:
            return "no updates yet"
        last = self.rounds[-1]
        of_all = f" of {len(self.plan) - 1}" if self.plan and last.phase else ""
        return f"in {last.title}{of_all} ({steps_text(last.num_steps)})"

    @property
    def progress(self) -> str:
        """Number of updates done, of those planned."""
        planned = f" of {self.plan[-1].end_update:,}" if self.plan else ""
        return f"{self.updates:,}{planned}"

    @property
    def seconds(self) -> float | None:
        """Total wall time of all starts, as far as known."""
        known = [s.seconds for s in self.starts if s.seconds is not None]
        return sum(known) if known else None


def is_run(workdir: Path) -> bool:
    """Whether a run has written to the directory."""
    return any((workdir / name).exists() for name in _FILES)


def files_of(workdir: Path) -> Iterator[Path]:
    """Yields the files that `load` reads; some may not exist."""
    yield from (workdir / name for name in (*_FILES, layout.PLAN, layout.STARTS))
    yield from (workdir / layout.SAMPLES).glob("*.npz")


def load(workdir: Path) -> Run:
    """Reads a workdir.

    Raises:
      InputError: if it is not a workdir, or a file is malformed; names the file.
    """
    if not workdir.is_dir():
        raise InputError(f"{workdir}: no such directory")
    if not is_run(workdir):
        raise InputError(f"{workdir}: not the workdir of a run (no config.json)")
    settings = read_settings(workdir)
    rows = read_typed(MetricsRow, workdir / layout.METRICS)
    plan = read_plan(workdir / layout.PLAN)
    starts = read_typed(StartRow, workdir / layout.STARTS)
    path = workdir / layout.EVALUATIONS
    measured = read_rows(path)
    evaluations = [read_row(EvalRow, row, path) for row in measured]
    phases = load_samples(workdir, "phase")
    joined = starts_of(starts, _last_change(workdir))
    rounds = rounds_of(rows, plan, evaluations)
    first = [s for s in phases if s.phase == 0] + load_samples(workdir, "baseline")
    return Run(
        path=workdir,
        name=_text(workdir.absolute().name or str(workdir)),
        settings=settings,
        plan=plan,
        starts=joined,
        rows=rows,
        curves=curves_of(rows, settings),
        profiles=profiles_of(rows),
        rounds=rounds,
        goodput=goodput_of(joined, rounds, evaluations, settings),
        measures=measured,
        groups=groups(evaluations),
        students={s.num_steps: s for s in phases if s.phase},
        teachers={s.num_steps: s for s in first},
        paths=load_trajectories(workdir),
        neighbours=load_neighbours(workdir),
    )


def with_own_names(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs, each named by the shortest unique suffix of its path."""
    paths = [run.path.absolute().parts for run in runs]
    return [
        run._replace(name=_text(os.path.join(*_tail(path, paths))))
        for run, path in zip(runs, paths, strict=True)
    ]


def _tail(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the shortest suffix of a path that no other path has."""
    for depth in range(1, len(path)):
        if [other[-depth:] for other in paths].count(path[-depth:]) == 1:
            return path[-depth:]
    return path


def _last_change(workdir: Path) -> float:
    # Not the directory's own time, which writing the page changes too.
    names = *_FILES, layout.STARTS, layout.SAMPLES, layout.CHECKPOINTS
    paths = [workdir / name for name in names]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _text(name: str) -> str:
    """Returns a file name, of any bytes, as encodable text."""
    readable = os.fsencode(name).decode(errors="replace")
    return printable(readable)
