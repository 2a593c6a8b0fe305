"""Checks of the files that an earlier start left in the workdir."""

import glob
import itertools
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from progdist import data, parallel, plan
from progdist.config import Config, ConfigError, differences, from_json, to_json
from progdist.data import identity
from progdist.plan import Phase
from progdist.trainer.state import Progress
from progdist.workdir import layout, lock, provenance
from progdist.workdir.files import write_bytes
from progdist.workdir.rows import MetricsRow, StartRow, read_typed


def make(workdir: Path) -> None:
    """Creates the directory of a run, in which everything can be written.

    Raises:
      ConfigError: if it cannot be created or read back, or something in it stands in
        the way.
    """
    if glob.has_magic(str(workdir)):
        raise ConfigError(
            f"--workdir={workdir}: must not hold any of *?[, which Orbax takes for a "
            "pattern"
        )
    if workdir.is_symlink() and not workdir.exists():
        raise ConfigError(f"--workdir={workdir}: is a link to nothing")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}") from None
    for path in (workdir, *(workdir / name for name in layout.DIRECTORIES)):
        if os.path.lexists(path):
            _check_writable(path, path.is_dir(), "directory")
    for path in (workdir / name for name in layout.FILES):
        if os.path.lexists(path):
            _check_writable(path, path.is_file(), "file")


def _check_writable(path: Path, is_kind: bool, kind: str) -> None:
    if not is_kind:
        raise ConfigError(f"{path}: must be a {kind}; move away what is there")
    if not os.access(path, os.W_OK | (os.X_OK if kind == "directory" else 0)):
        raise ConfigError(f"{path}: must be writable")


def check_same(config: Config, workdir: Path) -> None:
    """Refuses to resume with a configuration other than the original one.

    Raises:
      ConfigError: listing the differences as old → new.
    """
    path = workdir / layout.CONFIG
    changed = differences(from_json(path), config) if path.exists() else []
    if changed:
        raise ConfigError(
            f"{path} belongs to another run: {'; '.join(changed)}; --override resumes "
            "with these changes"
        )


def check_same_numerics(workdir: Path) -> None:
    """Refuses to resume with an environment that makes JAX compute otherwise.

    Raises:
      ConfigError: listing the differences as old → new.
    """
    path, now = workdir / layout.STARTS, provenance.numerics()
    rows = [row for row in read_typed(StartRow, path) if row.numerics is not None]
    before = dict(rows[-1].numerics or {}) if rows else now
    changed = [
        f"{name}: {before.get(name, '')!r} → {now.get(name, '')!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ConfigError(
            f"{path}: the run began with other numerics: {'; '.join(changed)}; "
            "--override resumes with these changes"
        )


def keep_plan(config: Config, phases: Sequence[Phase], workdir: Path) -> None:
    """Writes config.json and plan.json.

    An overridden configuration is kept as config.1.json, config.2.json and so on.

    Raises:
      ConfigError: if it cannot be written.
    """
    path = workdir / layout.CONFIG
    try:
        if path.exists() and differences(from_json(path), config):
            names = (workdir / f"config.{n}.json" for n in itertools.count(1))
            path.rename(next(name for name in names if not name.exists()))
        write_bytes(path, to_json(config).encode())
        write_bytes(workdir / layout.PLAN, plan.to_json(phases).encode())
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: {error.strerror}") from None


def missing_rows(
    workdir: Path, global_step: int, log_every: int
) -> list[tuple[int, int]]:
    """Returns the gaps of metrics.jsonl up to an update, as pairs of updates.

    A gap is longer than `log_every`, and than most intervals between rows.
    """
    rows = read_typed(MetricsRow, workdir / layout.METRICS)
    steps = [row.global_step for row in rows if row.global_step <= global_step]
    intervals = list(itertools.pairwise([0, *steps, global_step]))
    usual = statistics.median(b - a for a, b in intervals[:-1]) if steps else 0
    return [(a, b) for a, b in intervals if b - a > max(usual, log_every)]


def check_progress(phases: Sequence[Phase], progress: Progress, workdir: Path) -> None:
    """Refuses a checkpoint that does not fit the plan.

    Raises:
      ConfigError: if its phase, or an earlier one, has a different length.
    """
    phase = phases[progress.phase] if progress.phase < len(phases) else None
    if (
        phase is None
        or progress.step > phase.num_updates
        or progress.global_step != phase.first_update + progress.step
    ):
        raise ConfigError(
            f"{workdir}: its checkpoint is at update {progress.step} of phase "
            f"{progress.phase}, {progress.global_step} in all, which does not fit the "
            "configured numbers of updates and steps"
        )


def check_same_data(
    source: data.Source, progress: Progress, workdir: Path, note: Callable[[str], None]
) -> None:
    """Refuses to resume with data other than the original one.

    Earlier versions recorded nothing of some data, and names and sizes of the others.

    Raises:
      ConfigError: if the data differs, or cannot be compared.
    """
    name = f"data {source.name!r}"
    if not progress.data:
        note(f"an earlier version began this run: its {name} cannot be compared")
    elif not progress.data.startswith(identity.VERSION):
        raise ConfigError(
            f"{workdir}: an earlier version began this run, which compared names and "
            f"sizes of {name} alone; use --override if the files are still the same"
        )
    elif source.fingerprint != progress.data:
        raise ConfigError(
            f"{workdir}: {name} is not what the run began with; restore it, or use "
            "--override"
        )


def check_nothing_lost(workdir: Path, has_teacher: bool) -> None:
    """Refuses to start from scratch in a directory that holds parts of a run.

    Args:
      workdir: a directory without a checkpoint.
      has_teacher: whether the configuration names a teacher, which is saved before the
        first checkpoint.

    Raises:
      ConfigError: naming a part of that run.
    """
    models = sorted(path.name for path in workdir.glob("models/phase_*"))
    remains = [name for name in models if not (has_teacher and "phase_00" in name)]
    remains += sorted(path.name for path in workdir.glob("checkpoints/*.damaged*"))
    if remains:
        raise ConfigError(
            f"{workdir}: holds {remains[0]} of a run, but none of its checkpoints; put "
            "one back, or start in another workdir"
        )


def check_same_everywhere(
    config: Config, workdir: Path, source: data.Source, override: bool
) -> None:
    """Refuses processes that have different settings or do not share the workdir.

    Raises:
      ConfigError: on all of them.
    """
    if not all(parallel.of_all_processes(int(_sees_lock_of_first(workdir)))):
        raise ConfigError(
            f"--workdir={workdir}: must be storage that all processes share"
        )
    values = json.loads(to_json(config))
    for field in ("dir", "num_workers"):  # may differ between machines
        del values["data"][field]
    for what, value in {
        "configuration": [values, override],
        "numerics of JAX": provenance.numerics(),
        f"content of data {source.name!r}": source.fingerprint,
    }.items():
        digest = zlib.crc32(json.dumps(value, sort_keys=True).encode()) >> 1
        if len(set(parallel.of_all_processes(digest))) > 1:
            raise ConfigError(f"the {what} must be the same for all processes")


def _sees_lock_of_first(workdir: Path) -> bool:
    """Whether process 0's lock is visible here; network storage may take a moment."""
    owner = parallel.of_all_processes(os.getpid())[0]
    for _ in range(30):
        if lock.owner_of(workdir).get("pid") == str(owner):
            return True
        time.sleep(1)
    return False
