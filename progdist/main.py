"""Trains a teacher and distils it, round by round, to fewer and fewer steps.

  python -m progdist.main --config=configs/digits.py --workdir=runs/digits

The same command again goes on where it stopped. One field of the configuration is
changed by --config.base.num_updates=100. Exit codes: 0 done; 2 bad input, in one line;
3 training diverged; 130 interrupted.
"""

import sys
from pathlib import Path

from absl import flags

from progdist import cli, experiment, preflight

FLAGS = flags.FlagValues()
cli.define_config(FLAGS)
flags.DEFINE_string(
    "workdir", None, "Directory of the run, made if there is none.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "distributed", False, "Join the processes of a cluster first.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    cli.parse(FLAGS, argv, __doc__, required=("config", "workdir"))
    config = cli.get_config(FLAGS)
    preflight.check(config)
    workdir = Path(str(FLAGS["workdir"].value)).expanduser().absolute()
    cli.prepare_devices(config)
    if FLAGS["distributed"].value:
        cli.join_cluster()
    experiment.run(config, workdir)


if __name__ == "__main__":
    cli.exit_with(main, sys.argv)
