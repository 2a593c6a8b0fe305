"""Prints SHA-256 digests of a run's checkpoint, to compare runs.

  python -m progdist.fingerprint runs/digits [--step=1000]

Reads the newest checkpoint, or the one at --step, and verifies its arrays against the
digests saved with them. Writes nothing. Exit codes: 0 done; 2 bad input, in one line.
"""

import sys

from absl import flags

from progdist import checkpoint, cli
from progdist.errors import UsageError, exit_with
from progdist.workdir import files, layout

FLAGS = flags.FlagValues()
flags.DEFINE_integer(
    "step",
    None,
    "Global step of the checkpoint; the newest if omitted.",
    0,
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Prints name and digest of each group of arrays, one per line."""
    workdir = files.expand(cli.parse(FLAGS, argv, __doc__, words=("WORKDIR",))[0])
    directory = workdir / layout.CHECKPOINTS
    steps = checkpoint.snapshot_steps(directory)
    step: int | None = FLAGS["step"].value
    if not steps or step not in (None, *steps):
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise UsageError(f"{directory}: no such checkpoint; available steps: {there}")
    where = directory / str(steps[0] if step is None else step)
    for name, value in checkpoint.fingerprint(where).items():
        print(f"{name:9} {value}")


if __name__ == "__main__":
    exit_with(main, sys.argv)
