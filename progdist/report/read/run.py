"""A run as its workdir holds it, whether it is finished or not."""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import InputError
from progdist.plan import Phase
from progdist.report.read.config import read_config
from progdist.report.read.curves import Curve, curves_of
from progdist.report.read.evaluations import Group, groups
from progdist.report.read.profiles import Profile, profiles_of
from progdist.report.read.rounds import Round, plan_of, rounds_of
from progdist.report.read.samples import Samples, load_samples
from progdist.report.read.trajectories import Paths, load_trajectories
from progdist.report.text import printable
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

_ENDS = {
    None: "going on, or killed",
    "Interrupted": "stopped, saved",
    "NonFiniteError": "diverged",
}


class Start(NamedTuple):
    """One start of a run, and how it ended."""

    noted: StartRow
    end: str | None  # "done", what stopped it, or None where nothing was noted
    seconds: float | None

    @property
    def how(self) -> str:
        """How it ended, for people."""
        return _ENDS.get(self.end, self.end or "")


class Run(NamedTuple):
    """What a workdir holds; empty where there is nothing yet."""

    path: Path
    name: str
    config: dict[str, Any]
    starts: list[Start]
    rows: list[MetricsRow]
    curves: list[Curve]
    profiles: list[Profile]
    rounds: list[Round]
    measures: list[dict[str, Any]]  # rows of eval.jsonl as they stand
    groups: list[Group]
    students: dict[int, Samples]  # by number of steps
    teachers: dict[int, Samples]
    paths: Paths

    @property
    def noted(self) -> StartRow:
        """Row of the last start."""
        return self.starts[-1].noted if self.starts else StartRow()

    @property
    def plan(self) -> tuple[Phase, ...]:
        """The phases; none where the configuration is malformed."""
        return plan_of(self.config)

    @property
    def updates(self) -> int:
        """Updates done, of all phases."""
        return max((row.global_step for row in self.rows), default=0)

    @property
    def is_finished(self) -> bool:
        """Whether the plan's last student has been trained and measured."""
        if not self.plan:
            return False
        last = self.plan[-1]
        measured = any(row["phase"] == last.number for row in self.measures)
        return measured and self.updates >= last.end_update

    @property
    def seconds(self) -> float | None:
        """How long it has been running, all starts together, as far as is known."""
        known = [s.seconds for s in self.starts if s.seconds is not None]
        return sum(known) if known else None

    @property
    def settings(self) -> Iterator[tuple[str, Any]]:
        """The fields of the configuration with their values, "data.name" say."""
        for name, value in self.config.items():
            if isinstance(value, dict):
                yield from ((f"{name}.{field}", v) for field, v in value.items())
            else:
                yield name, value


def is_run(workdir: Path) -> bool:
    """Whether a run has written something there."""
    return any((workdir / name).exists() for name in _FILES)


def files_of(workdir: Path) -> Iterator[Path]:
    """Yields what `load` reads; not all of it need be there."""
    yield from (workdir / name for name in (*_FILES, layout.STARTS))
    yield from (workdir / layout.SAMPLES).glob("*.npz")


def load(workdir: Path) -> Run:
    """Reads a workdir.

    Raises:
      InputError: if it is none, or a file in it is malformed; names it.
    """
    if not workdir.is_dir():
        raise InputError(f"{workdir}: no such directory")
    if not is_run(workdir):
        raise InputError(f"{workdir}: not the workdir of a run (no config.json)")
    rows = read_typed(MetricsRow, workdir / layout.METRICS)
    config = read_config(workdir / layout.CONFIG)
    starts = read_typed(StartRow, workdir / layout.STARTS)
    path = workdir / layout.EVALUATIONS
    measured = read_rows(path)
    phases = load_samples(workdir, "phase")
    first = [s for s in phases if s.phase == 0] + load_samples(workdir, "baseline")
    return Run(
        path=workdir,
        name=_text(workdir.absolute().name or str(workdir)),
        config=config,
        starts=_starts(starts, _last_change(workdir)),
        rows=rows,
        curves=curves_of(rows),
        profiles=profiles_of(rows),
        rounds=rounds_of(rows, config),
        measures=measured,
        groups=groups([read_row(EvalRow, row, path) for row in measured]),
        students={s.num_steps: s for s in phases if s.phase},
        teachers={s.num_steps: s for s in first},
        paths=load_trajectories(workdir),
    )


def with_own_names(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs, each called by as much of its path as tells it from others."""
    paths = [run.path.absolute().parts for run in runs]
    return [
        run._replace(name=_text(os.path.join(*_tail(path, paths))))
        for run, path in zip(runs, paths, strict=True)
    ]


def _tail(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The least of a path's end that no other has."""
    for depth in range(1, len(path)):
        if [other[-depth:] for other in paths].count(path[-depth:]) == 1:
            return path[-depth:]
    return path


def _starts(rows: Sequence[StartRow], last_change: float) -> list[Start]:
    """Joins the rows of starts and ends.

    The last start may have no end, since it is still running or was killed; it has
    lasted at least until it last wrote something.
    """
    starts: list[Start] = []
    for row in rows:
        if row.end is None:
            starts = [s if s.end else s._replace(end="killed") for s in starts]
            starts.append(Start(row, None, None))
        elif starts:
            seconds = _seconds(starts[-1].noted, _timestamp(row))
            starts[-1] = Start(starts[-1].noted, row.end, seconds)
    if starts and starts[-1].end is None:
        seconds = _seconds(starts[-1].noted, last_change)
        starts[-1] = starts[-1]._replace(seconds=seconds)
    return starts


def _seconds(start: StartRow, end: float | None) -> float | None:
    begin = _timestamp(start)
    return None if begin is None or end is None else max(0.0, end - begin)


def _timestamp(row: StartRow) -> float | None:
    try:
        return datetime.fromisoformat(row.time or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _last_change(workdir: Path) -> float:
    # Not of the directory itself, which the page changes too.
    names = *_FILES, layout.STARTS, layout.SAMPLES, layout.CHECKPOINTS
    paths = [workdir / name for name in names]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _text(name: str) -> str:
    """A file's name as text that can be written, whatever bytes it is made of."""
    readable = os.fsencode(name).decode(errors="replace")
    return printable(readable)
