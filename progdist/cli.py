"""What the commands share: flags, devices, and one clear line for a mistake."""

import contextlib
import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
from absl import flags, logging
from ml_collections import config_flags

from progdist import preflight
from progdist.checkpoint import CheckpointError, SaveError
from progdist.config import Config, ConfigError, from_json
from progdist.data import DataError
from progdist.evaluate.features import WeightsError
from progdist.parallel import PeerError
from progdist.report import ArrayError, RowError
from progdist.trainer.interrupt import Interrupted
from progdist.trainer.loop import NonFiniteError
from progdist.workdir import compile_cache
from progdist.workdir.cache_dir import cache_dir
from progdist.workdir.lock import LockError

# Errors of JAX that no other process has caused.
_OURS = "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED"
MOST_STEPS = 2**24  # of a sampler: float32 holds all whole numbers up to it
_LEAST_ROWS = 16  # of a batch on each CPU device; fewer do not pay


class UsageError(ValueError):
    """A missing, unknown or wrong flag."""


_EXIT_CODES: dict[type[Exception], int] = {
    UsageError: 2,
    ConfigError: 2,
    DataError: 2,
    CheckpointError: 2,
    LockError: 2,
    WeightsError: 2,
    RowError: 2,
    ArrayError: 2,
    NonFiniteError: 3,
    SaveError: 4,
    PeerError: 5,
}


def define_config(values: flags.FlagValues) -> None:
    """Defines --config, with overrides by the type of each field."""
    for choices in _literals(Config):
        # Not among the types that ml_collections knows.
        config_flags.register_flag_parser_for_type(
            choices, flags.EnumParser(list(get_args(choices)))
        )
    config_flags.DEFINE_config_file(
        "config", None, "configs/NAME.py[:variant]", flag_values=values
    )


def get_config(values: flags.FlagValues) -> Config:
    """Returns the parsed configuration.

    Raises:
      UsageError: if the file is not there, or returns something else.
    """
    config: Any = values["config"].value
    try:
        found = type(config.seed)
    except (OSError, AttributeError) as error:
        raise UsageError(f"--config: {last_line(error)}") from None
    if found is not int or not isinstance(config, Config):
        raise UsageError("--config: get_config must return a progdist.config.Config")
    return config


def parse(
    values: flags.FlagValues,
    argv: list[str],
    about: str | None,
    required: Sequence[str] = (),
    words: Sequence[str] = (),
) -> list[str]:
    """Parses the command line; --help shows `about` and the flags, and ends.

    Args:
      values: the flags.
      argv: the command line.
      about: for --help.
      required: names of flags that must be given.
      words: names of what must stand there beside flags.

    Returns:
      The words.

    Raises:
      UsageError: if a flag or word is missing, unknown, wrong or too much.
    """
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{about}\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise UsageError(last_line(error)) from None
    except Exception as error:  # the file is a program, and may raise anything
        raise UsageError(f"--config: {last_line(error)}") from None
    if len(rest) > len(words):
        raise UsageError(f"{rest[len(words)]!r} is not a flag; flags are --name=value")
    if len(rest) < len(words):
        raise UsageError(f"{words[len(rest)]} is missing; see --help")
    for name in required:
        if values[name].value is None:
            raise UsageError(f"--{name} is missing; see --help")
    return rest


def open_run(path: str) -> tuple[Path, Config]:
    """Returns a run's directory and its configuration, checked.

    Raises:
      UsageError: if there is no such directory.
      ConfigError: if its configuration is missing or malformed.
    """
    workdir = Path(path).expanduser().absolute()
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: no such directory")
    config = from_json(workdir / "config.json")
    preflight.check(config)
    return workdir, config


def prepare_devices(config: Config, num_processes: int = 1) -> None:
    """Splits a CPU into devices, and sets the cache of compiled programs.

    Several devices let a CPU's cores share a batch; where there is an accelerator they
    stay unused. Must come before the first array.
    """
    devices = config.cpu_devices or _devices_of(config, num_processes)
    jax.config.update("jax_num_cpu_devices", devices)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        compile_cache.use(cache_dir() / "jax")


@contextlib.contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Gives a directory to fill, which becomes `out` in the end, or vanishes.

    `out` may be there if it is empty.

    Raises:
      OSError: where it cannot be filled; its `filename` is set.
    """
    prefix, parent = f".{out.name}.", out.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as parts:
            part = Path(parts) / out.name
            part.mkdir()
            yield part
            part.rename(out)
    except OSError as error:  # which may not say where
        where = error.filename or str(out)
        raise OSError(error.errno, error.strerror or str(error), where) from None


def end_on_sigterm() -> None:
    """Lets SIGTERM end a command through what removes unfinished files."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def last_line(error: Exception) -> str:
    """Returns what an error says last; ml_collections puts a traceback before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().removeprefix("progdist.config.ConfigError: ")


def exit_with(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs a command; where it fails, prints one line and ends with its exit code."""
    # Orbax reports every file at level INFO, and what it also raises at level ERROR.
    logging.set_verbosity(logging.FATAL)
    try:
        main(argv)
    except tuple(_EXIT_CODES) as error:
        code = next(c for kind, c in _EXIT_CODES.items() if isinstance(error, kind))
        if isinstance(error, NonFiniteError):  # which all processes see alike
            _fail(f"training diverged: {error}", code, orderly=True)
        _fail(str(error), code)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 4)
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized() or str(error).startswith(_OURS):
            raise
        _fail(f"another process was lost ({last_line(error)})", 5)
    except Interrupted as error:
        _fail(f"{error}; the same command goes on", error.code, orderly=True)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _devices_of(config: Config, num_processes: int) -> int:
    """The most devices, up to one a core, that share every batch evenly."""
    sizes = [config.base.batch_size, config.distill.batch_size]
    most = min(num_cores(), min(sizes) // num_processes // _LEAST_ROWS)
    sizes.append(config.evaluation.batch_size)
    fitting = (
        n
        for n in range(1, most + 1)
        if all(s % (n * num_processes) == 0 for s in sizes)
    )
    return max(fitting, default=1)


def _literals(cls: type) -> Iterator[Any]:
    """The types of the fields that take one of a few words, nested ones too."""
    hints: dict[str, Any] = get_type_hints(cls)
    for hint in hints.values():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _literals(hint)
        elif get_origin(hint) is Literal:
            yield hint


def _fail(message: str, code: int, orderly: bool = False) -> None:
    """Says why, and ends; in an orderly way where all processes do the same."""
    with contextlib.suppress(OSError):
        print(f"progdist: {message}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized() and not orderly:
        os._exit(code)  # an orderly exit would wait for the others
    sys.exit(code)
