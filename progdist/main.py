"""Trains a teacher and distils it: python -m progdist.main --config=… --workdir=….

Exit codes: 0 done; 2 bad input, in one line; 3 training diverged.
"""

import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from progdist import cli
from progdist.config import check

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "Configuration file, as in configs/digits.py[:variant]."
)
flags.DEFINE_string("workdir", None, "Directory of the run, made if there is none.")
flags.DEFINE_bool("distributed", False, "Join the processes of a cluster first.")


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags describe."""
    cli.parse(FLAGS, argv, required=("config", "workdir"))
    check(FLAGS.config)
    cli.prepare_devices(FLAGS.config)
    if FLAGS.distributed:
        jax.distributed.initialize()
    from progdist import experiment  # after the checks, which should answer at once

    experiment.run(FLAGS.config, Path(FLAGS.workdir).expanduser().absolute())


if __name__ == "__main__":
    cli.exit_with(main, sys.argv)
