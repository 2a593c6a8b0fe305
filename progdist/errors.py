"""Errors of the commands with their exit codes, and the common exit of a command.

| code     | meaning                                                      |
|---------:|--------------------------------------------------------------|
| 0        | done                                                         |
| 2        | bad input, in one line                                       |
| 3        | training or sampling diverged                                |
| 4        | something could not be written                               |
| 5        | no progress, or another process was lost                     |
| 130, 143 | stopped by Ctrl-C or SIGTERM                                 |
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

# Errors of JAX that were not caused by another process.
_OWN_FAULTS = "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED"


class Error(Exception):
    """Failure of a command, explained in one line.

    Attributes:
      exit_code: exit code of the command.
      everywhere: whether all processes of a run raise it together, so that none keeps
        an orderly exit waiting.
    """

    exit_code: int = 2
    everywhere: bool = False


class InputError(Error, ValueError):
    """Input is not valid; the message names it and what is accepted."""


class NonFiniteError(Error):
    """A loss, gradient, parameter or pixel became NaN or infinite."""

    exit_code = 3
    everywhere = True


class UsageError(InputError):
    """A flag is missing, unknown or invalid."""


def exit_with(main: Callable[[list[str]], Any], argv: list[str]) -> None:
    """Runs a command; on failure prints one line and exits with the error's code."""
    try:
        main(argv)
    except Error as error:
        _fail(str(error), error.exit_code, error.everywhere)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 4)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if not _is_lost_process(error):
            raise
        _fail(f"another process was lost ({last_line(error)})", 5)


def end_on_sigterm() -> None:
    """Makes SIGTERM raise an exception, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def last_line(error: Exception) -> str:
    """Returns the last line of an error; ml_collections prepends a traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip().removeprefix("progdist.config.ConfigError: ")


def _is_lost_process(error: Exception) -> bool:
    """Whether JAX reports that a peer of this process is gone."""
    return (
        _is_distributed()
        and isinstance(error, sys.modules["jax"].errors.JaxRuntimeError)
        and not str(error).startswith(_OWN_FAULTS)
    )


def _is_distributed() -> bool:
    """Whether this process has joined others; never true without JAX."""
    jax: Any = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _fail(message: str, code: int, everywhere: bool = False) -> NoReturn:
    with contextlib.suppress(OSError):
        print(f"progdist: {message}", file=sys.stderr, flush=True)
    if _is_distributed() and not everywhere:
        os._exit(code)  # an orderly exit would wait for the other processes
    sys.exit(code)
