"""Prints what a checkpoint of a run holds, as SHA-256, so that runs can be compared.

  python -m progdist.fingerprint runs/digits [--step=1000]

The newest checkpoint, or that of a global step. The arrays are read and compared with
what was noted when they were saved; nothing is written. Exit codes: 0 done; 2 bad
input, in one line.
"""

import sys
from pathlib import Path

from absl import flags

from progdist import checkpoint, cli
from progdist.errors import UsageError, exit_with

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    "step", None, "Global step; else the newest.", 0, flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Prints a line a group: its name, and its digest or what it is."""
    workdir = Path(cli.parse(FLAGS, argv, __doc__, words=("WORKDIR",))[0])
    directory = workdir.expanduser() / "checkpoints"
    steps = checkpoint.snapshot_steps(directory)
    step: int | None = FLAGS["step"].value
    if not steps or step not in (None, *steps):
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise UsageError(f"{directory}: no such checkpoint; steps there: {there}")
    where = directory / str(steps[0] if step is None else step)
    for name, value in checkpoint.fingerprint(where).items():
        print(f"{name:9} {value}")


if __name__ == "__main__":
    exit_with(main, sys.argv)
