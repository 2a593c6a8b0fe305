"""What the commands share: flags, devices, and one clear line for a mistake."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
from absl import flags, logging
from ml_collections import config_flags

from progdist.checkpoint import CheckpointError
from progdist.config import Config, ConfigError
from progdist.data import DataError
from progdist.loop import NonFiniteError

_LEAST_ROWS = 16  # of a batch on each CPU device; fewer do not pay


class UsageError(ValueError):
    """A missing, unknown or wrong flag."""


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
        raise UsageError(f"--config: {_last_line(error)}") from None
    if found is not int or not isinstance(config, Config):
        raise UsageError("--config: get_config must return a progdist.config.Config")
    return config


def parse(
    values: flags.FlagValues,
    argv: list[str],
    about: str | None,
    required: Sequence[str],
) -> None:
    """Parses the command line; --help shows `about` and the flags, and ends.

    Raises:
      UsageError: if a flag is missing, unknown or wrong, or a word is left over.
    """
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{about}\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise UsageError(_last_line(error)) from None
    except Exception as error:  # the file is a program, and may raise anything
        raise UsageError(f"--config: {_last_line(error)}") from None
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag; flags are --name=value")
    for name in required:
        if values[name].value is None:
            raise UsageError(f"--{name} is missing; see --help")


def prepare_devices(config: Config) -> None:
    """Splits a CPU into devices, and sets the cache of compiled programs.

    Several devices let a CPU's cores share a batch; where there is an accelerator they
    stay unused. Must come before the first array.
    """
    jax.config.update("jax_num_cpu_devices", config.cpu_devices or _devices_of(config))
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "progdist" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def join_cluster() -> None:
    """Joins the processes that the environment (TPU, SLURM, …) describes.

    Raises:
      UsageError: if it describes none.
    """
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--distributed: {_last_line(error)}") from None


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def exit_with(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs a command; where it fails, prints one line and ends with its exit code."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file at level INFO
    try:
        main(argv)
    except (UsageError, ConfigError, DataError, CheckpointError) as error:
        _fail(str(error), 2)
    except NonFiniteError as error:
        _fail(f"training diverged: {error}", 3)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from the last checkpoint", 130)


def _devices_of(config: Config) -> int:
    """The most devices, up to one a core, that share every batch evenly."""
    sizes = [config.base.batch_size, config.distill.batch_size]
    most = min(num_cores(), min(sizes) // _LEAST_ROWS)
    sizes.append(config.evaluation.batch_size)
    fitting = (n for n in range(1, most + 1) if all(s % n == 0 for s in sizes))
    return max(fitting, default=1)


def _literals(cls: type) -> Iterator[Any]:
    """The types of the fields that take one of a few words, nested ones too."""
    hints: dict[str, Any] = get_type_hints(cls)
    for hint in hints.values():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _literals(hint)
        elif get_origin(hint) is Literal:
            yield hint


def _last_line(error: Exception) -> str:
    """What an error says at the end; ml_collections puts tracebacks before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().removeprefix("progdist.config.ConfigError: ")


def _fail(message: str, code: int) -> None:
    print(f"progdist: {message}", file=sys.stderr)
    sys.exit(code)
