"""What a workdir holds already, and whether a run may go on with it."""

import itertools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from progdist import data, parallel
from progdist.checkpoint import Progress
from progdist.config import Config, ConfigError, differences, from_json, to_json
from progdist.progressive import Phase


def make(workdir: Path) -> None:
    """Makes the directory of a run.

    Raises:
      ConfigError: if it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: {error.strerror}") from None


def check_same(config: Config, workdir: Path) -> None:
    """Refuses to go on with another configuration than the run began with.

    Raises:
      ConfigError: with old → new of what differs.
    """
    path = workdir / "config.json"
    changed = differences(from_json(path), config) if path.exists() else []
    if changed:
        raise ConfigError(
            f"{path} is of another run: {'; '.join(changed)}; with --override it goes "
            "on with these changes"
        )


def keep_config(config: Config, workdir: Path) -> None:
    """Writes config.json; one that it overrides stays, as config.1.json and so on.

    Raises:
      ConfigError: if it cannot be written.
    """
    path = workdir / "config.json"
    try:
        if path.exists() and differences(from_json(path), config):
            names = (workdir / f"config.{n}.json" for n in itertools.count(1))
            path.rename(next(name for name in names if not name.exists()))
        part = path.with_suffix(".part")
        part.write_text(to_json(config))
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def check_progress(phases: Sequence[Phase], progress: Progress, workdir: Path) -> None:
    """Refuses a checkpoint that stands where the plan does not lead.

    Raises:
      ConfigError: if phases before it, or its own, have other lengths.
    """
    phase = phases[progress.phase] if progress.phase < len(phases) else None
    if (
        phase is None
        or progress.step > phase.num_updates
        or progress.global_step != phase.first_update + progress.step
    ):
        raise ConfigError(
            f"{workdir}: its checkpoint is of update {progress.step} in phase "
            f"{progress.phase}, {progress.global_step} in all, which the configured "
            "numbers of updates and steps do not lead to"
        )


def check_same_data(source: data.Source, progress: Progress, workdir: Path) -> None:
    """Refuses to go on with other files than the run began with.

    Raises:
      ConfigError: if the data's fingerprint is not the noted one.
    """
    if source.fingerprint != progress.data:
        raise ConfigError(
            f"{workdir}: the files of data {source.name!r} are not those that the run "
            "began with; put these back, or go on with --override"
        )


def check_same_everywhere(source: data.Source) -> None:
    """Refuses data that the processes see differently.

    Raises:
      ConfigError: on all of them.
    """
    found = parallel.of_all_processes(zlib.crc32(source.fingerprint.encode()) >> 1)
    if len(set(found)) > 1:
        raise ConfigError(
            f"config.data.dir: the files of data {source.name!r} are not the same for "
            "all processes"
        )
