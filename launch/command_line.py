"""Flags and errors of the launchers; needs nothing but absl."""

import sys
from collections.abc import Callable, Sequence

from absl import flags

RESERVED = "distributed", "coordinator", "num_processes", "process_id"


class UsageError(ValueError):
    """A missing, unknown or wrong flag."""


def parse(values: flags.FlagValues, argv: Sequence[str], about: str | None) -> None:
    """Parses the command line; --help prints `about` and the flags, and exits.

    Raises:
      UsageError: if a flag is unknown or wrong, or an argument is not a flag.
    """
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{about}\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise UsageError(str(error).strip().splitlines()[-1].strip()) from None
    if len(rest) > 1:
        raise UsageError(
            f"{rest[1]!r} is not a flag; flags are --name=value, and those of "
            "progdist.main come after --"
        )


def parse_both(
    values: flags.FlagValues,
    argv: Sequence[str],
    about: str | None,
    reserved: Sequence[str] = RESERVED,
) -> list[str]:
    """Parses the launcher's flags and returns those of progdist.main, after --.

    Raises:
      UsageError: as `parse`; or if --config or --workdir is missing, the workdir is a
        URL, or a flag is reserved for the launcher.
    """
    at = argv.index("--") if "--" in argv else len(argv)
    parse(values, argv[:at], about)
    arguments = list(argv[at + 1 :])
    for name in ("config", "workdir"):
        if not value_of(name, arguments):
            raise UsageError(f"--{name}=... is missing after --")
    if "://" in value_of("workdir", arguments):
        raise UsageError("--workdir: must be a directory, mounted everywhere; no URL")
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in reserved:
            raise UsageError(f"{argument}: is set by the launcher")
    return arguments


def value_of(name: str, arguments: Sequence[str]) -> str:
    """Returns the last value of a flag among the arguments; empty if there is none."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"--{name}=")]
    return values[-1] if values else ""


def exit_with(main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Runs a launcher and exits with its code; a usage error is one line and code 2."""
    try:
        sys.exit(main(argv))
    except UsageError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
