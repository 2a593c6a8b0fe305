"""Flags and usage errors of the launchers."""

import re
import sys
from collections.abc import Callable, Sequence

from absl import flags

RESERVED = "distributed", "coordinator", "num_processes", "process_id"


class UsageError(ValueError):
    """A flag is missing, unknown or invalid."""


def parse(
    values: flags.FlagValues,
    argv: list[str],
    about: str | None,
    reserved: Sequence[str] = (),
) -> list[str]:
    """Parses a launcher's flags and returns those of progdist train, after --.

    --help prints `about` and the flags, and exits. The launcher itself passes the
    `reserved` flags to progdist train; one without any does not run it.
    """
    at = argv.index("--") if reserved and "--" in argv else len(argv)
    if {"--help", "-h"} & set(argv[1:at]):
        print(f"{about}\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv[:at])
    except flags.Error as error:
        raise UsageError(str(error).strip().splitlines()[-1].strip()) from None
    if len(rest) > 1:
        rule = "flags are --name=value, and those of progdist train come after --"
        raise UsageError(f"{rest[1]!r} is not a flag; {rule}")
    if reserved:
        _check_arguments(argv[at + 1 :], reserved)
    return argv[at + 1 :]


def _check_arguments(arguments: Sequence[str], reserved: Sequence[str]) -> None:
    for name in ("config", "workdir"):
        if not value_of(name, arguments):
            raise UsageError(f"--{name}=... is missing after --")
    workdir = value_of("workdir", arguments)
    if "://" in workdir and not is_in_bucket(workdir):
        rule = "must be gs://BUCKET/PATH or a directory mounted everywhere"
        raise UsageError(f"--workdir={workdir}: {rule}")
    for argument in arguments:
        if argument.startswith("-") and argument.strip("-").split("=")[0] in reserved:
            raise UsageError(f"{argument}: is set by the launcher")


def value_of(name: str, arguments: Sequence[str]) -> str:
    """Returns the last value of a flag among the arguments, or an empty string."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"--{name}=")]
    return values[-1] if values else ""


def is_in_bucket(workdir: str) -> bool:
    """Whether a workdir is a path in a bucket of Google Cloud Storage."""
    return bool(re.match(r"gs://[a-z0-9][\w.-]*[a-z0-9]/[^/]", workdir, re.ASCII))


def exit_with(main: Callable[[list[str]], int], argv: list[str]) -> None:
    """Runs a launcher and exits with its code; a usage error is one line and code 2."""
    try:
        sys.exit(main(argv))
    except UsageError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
