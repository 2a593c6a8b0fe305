"""Contents of the workdir of a finished or unfinished run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import InputError
from progdist.plan import Phase, read_plan
from progdist.report.read.curves import Curve, curves_of
from progdist.report.read.evaluations import Group, groups
from progdist.report.read.profiles import Profile, profiles_of
from progdist.report.read.rounds import Round, rounds_of
from progdist.report.read.samples import Samples, load_samples
from progdist.report.read.starts import Start, starts_of
from progdist.report.read.trajectories import Paths, load_trajectories
from progdist.report.text import printable
from progdist.workdir import layout
from progdist.workdir.files import read_regular
from progdist.workdir.rows import (
    EvalRow,
    MetricsRow,
    StartRow,
    parse,
    read_row,
    read_rows,
    read_typed,
)

_FILES = layout.CONFIG, layout.METRICS, layout.EVALUATIONS


class Run(NamedTuple):
    """Contents of a workdir; fields are empty if nothing was written yet."""

    path: Path
    name: str
    config: dict[str, Any]  # as in config.json
    plan: tuple[Phase, ...]  # empty if there is no plan.json
    starts: list[Start]
    rows: list[MetricsRow]
    curves: list[Curve]
    profiles: list[Profile]
    rounds: list[Round]
    measures: list[dict[str, Any]]  # raw rows of eval.jsonl
    groups: list[Group]
    students: dict[int, Samples]  # by number of steps
    teachers: dict[int, Samples]
    paths: Paths

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
        """Whether the run has ended, or its last student is trained and evaluated."""
        ended = bool(self.starts) and self.starts[-1].end == "done"
        if ended or not self.plan:
            return ended
        last = self.plan[-1]
        measured = any(row["phase"] == last.number for row in self.measures)
        return measured and self.updates >= last.end_update

    @property
    def seconds(self) -> float | None:
        """Total wall time of all starts, as far as known."""
        known = [s.seconds for s in self.starts if s.seconds is not None]
        return sum(known) if known else None

    @property
    def settings(self) -> dict[str, Any]:
        """Values of the configuration by field, such as "data.name"."""
        fields = {}
        for name, value in self.config.items():
            if isinstance(value, dict):
                fields |= {f"{name}.{field}": inner for field, inner in value.items()}
            else:
                fields[name] = value
        return fields


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
    rows = read_typed(MetricsRow, workdir / layout.METRICS)
    plan = read_plan(workdir / layout.PLAN)
    starts = read_typed(StartRow, workdir / layout.STARTS)
    path = workdir / layout.EVALUATIONS
    measured = read_rows(path)
    phases = load_samples(workdir, "phase")
    first = [s for s in phases if s.phase == 0] + load_samples(workdir, "baseline")
    return Run(
        path=workdir,
        name=_text(workdir.absolute().name or str(workdir)),
        config=_read_config(workdir / layout.CONFIG),
        plan=plan,
        starts=starts_of(starts, _last_change(workdir)),
        rows=rows,
        curves=curves_of(rows),
        profiles=profiles_of(rows),
        rounds=rounds_of(rows, plan),
        measures=measured,
        groups=groups([read_row(EvalRow, row, path) for row in measured]),
        students={s.num_steps: s for s in phases if s.phase},
        teachers={s.num_steps: s for s in first},
        paths=load_trajectories(workdir),
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


def _read_config(path: Path) -> dict[str, Any]:
    return parse(read_regular(path), str(path)) if path.exists() else {}


def _last_change(workdir: Path) -> float:
    # Not the directory's own time, which writing the page changes too.
    names = *_FILES, layout.STARTS, layout.SAMPLES, layout.CHECKPOINTS
    paths = [workdir / name for name in names]
    return max(path.stat().st_mtime for path in paths if path.exists())


def _text(name: str) -> str:
    """Returns a file name, of any bytes, as encodable text."""
    readable = os.fsencode(name).decode(errors="replace")
    return printable(readable)
