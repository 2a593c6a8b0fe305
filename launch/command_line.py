"""What the launchers share: flags, and one clear line for a mistake."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import flags


class UsageError(ValueError):
    """A missing, unknown or wrong flag."""


def parse(values: flags.FlagValues, argv: Sequence[str], about: str | None) -> None:
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
        raise UsageError(str(error).strip().splitlines()[-1].strip()) from None
    if len(rest) > 1:
        raise UsageError(
            f"{rest[1]!r} is not a flag; flags are --name=value, and those of "
            "progdist.main come after --"
        )


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns what stands before the first --, and what stands after it."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def value_of(name: str, arguments: Sequence[str]) -> str | None:
    """Returns the last value of a flag among the arguments, if it is there."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"--{name}=")]
    return values[-1] if values else None


def check_arguments(arguments: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses arguments of progdist.main that a launcher cannot pass on.

    Raises:
      UsageError: if --config or --workdir is missing or of no use, or a flag is set by
        the launcher.
    """
    for name in ("config", "workdir"):
        if not value_of(name, arguments):
            raise UsageError(f"--{name}=... is missing after --")
    if "://" in (value_of("workdir", arguments) or ""):
        raise UsageError("--workdir: must be a directory, mounted everywhere; no URL")
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in ours:
            raise UsageError(f"{argument}: is set by the launcher")


def quoted(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Returns a command as a line for a shell."""
    words = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*words, shlex.join(command)])


def exit_with(main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Runs a launcher and ends with its code; a mistake is one line and code 2."""
    try:
        sys.exit(main(argv))
    except UsageError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
