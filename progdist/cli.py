"""What the commands share: flags, devices, and one clear line for a mistake."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags, logging

from progdist.checkpoint import CheckpointError
from progdist.config import Config, ConfigError
from progdist.data import DataError
from progdist.loop import NonFiniteError

_LEAST_ROWS = 16  # of a batch on each CPU device; fewer do not pay


class UsageError(ValueError):
    """A missing, unknown or wrong flag."""


def parse(values: flags.FlagValues, argv: list[str], required: Sequence[str]) -> None:
    """Parses the command line.

    Raises:
      UsageError: if a flag is missing, unknown or wrong, or a word is left over.
    """
    try:
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    except (OSError, ImportError, SyntaxError) as error:
        raise UsageError(f"--config: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r}: not a flag; flags are --name=value")
    for name in required:
        if values[name].value is None:
            raise UsageError(f"--{name}: missing; see --help")


def prepare_devices(config: Config) -> None:
    """Splits a CPU into devices, and sets the cache of compiled programs.

    Several devices let a CPU's cores share a batch. Where there is an accelerator this
    changes nothing. Must come before the first array.
    """
    jax.config.update("jax_num_cpu_devices", config.cpu_devices or _devices_of(config))
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache / "progdist" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
    most = min(len(os.sched_getaffinity(0)), min(sizes) // _LEAST_ROWS)
    sizes.append(config.evaluation.batch_size)
    fitting = (n for n in range(1, most + 1) if all(s % n == 0 for s in sizes))
    return max(fitting, default=1)


def _fail(message: str, code: int) -> None:
    print(f"progdist: {message}", file=sys.stderr)
    sys.exit(code)
