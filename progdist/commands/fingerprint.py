"""Prints SHA-256 digests of a run's checkpoint, to compare runs.

  progdist fingerprint runs/digits
  progdist fingerprint runs/digits --step=1000

Reads the newest checkpoint, or the one at --step, and verifies its arrays against the
digests saved with them. Writes nothing.

Exit codes: 0 done; 2 bad input, in one line.
"""

from progdist.commands.parser import Flags
from progdist.errors import UsageError
from progdist.workdir import layout
from progdist.workdir.copies import local


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir")
    flags.text("workdir", "Directory of the run.")
    flags.number("step", "Global step of the checkpoint; the newest if omitted.")
    return flags


def main(argv: list[str]) -> None:
    """Prints name and digest of each group of arrays, one per line."""
    values = define_flags().parse(argv, __doc__, "workdir")

    from progdist import checkpoint

    workdir = local(values["workdir"])
    if not workdir.is_dir():
        raise UsageError(f"{workdir}: no such directory")
    directory = workdir / layout.CHECKPOINTS
    steps, step = checkpoint.snapshot_steps(directory), values["step"]
    if not steps or step not in (None, *steps):
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise UsageError(f"{directory}: no such checkpoint; available steps: {there}")
    where = directory / str(steps[0] if step is None else step)
    for name, value in checkpoint.fingerprint(where).items():
        print(f"{name:9} {value}")
