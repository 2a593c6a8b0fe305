"""Trains a teacher and distils it, round by round, into fewer and fewer steps.

  python -m progdist.main --config=configs/digits.py --workdir=runs/digits

The same command resumes where it stopped. --config.base.num_updates=100 overrides one
field of the configuration. For several machines or processes, run the same command in
each with --distributed, and a workdir on storage that they share.

Exit codes:
  0 done
  2 bad input, in one line
  3 training or sampling diverged
  4 something could not be written
  5 no progress, or another process was lost (134 where JAX saw it first)
  130, 143 stopped by Ctrl-C or SIGTERM, saved; the same command resumes
  129, 138, 140 stopped by SIGHUP, SIGUSR1 or SIGUSR2 in the same way
"""

import sys

from absl import flags

from progdist import cli, cluster, preflight
from progdist.errors import exit_with
from progdist.trainer.preemption import Interrupt
from progdist.trainer.run import run
from progdist.workdir import files


def define_flags() -> flags.FlagValues:
    """Returns the flags; parsing --config adds its overrides to them."""
    values = flags.FlagValues()
    cli.define_config(values)
    cluster.define_flags(values)
    flags.DEFINE_string(
        "workdir", None, "Directory of the run; created if missing.", flag_values=values
    )
    flags.DEFINE_bool(
        "override",
        False,
        "Resume even if the configuration differs from that of the first start.",
        flag_values=values,
    )
    return values


def main(argv: list[str]) -> None:
    """Runs the experiment described by the flags."""
    values = define_flags()
    cli.parse(values, argv, __doc__, required=("config", "workdir"))
    config = cli.get_config(values)
    preflight.check(config)
    workdir = files.expand(str(values["workdir"].value)).absolute()
    cluster.join(values)
    cli.prepare_devices(config, values["num_processes"].value or 1)
    # After joining, which installs a SIGTERM handler of its own.
    with Interrupt() as interrupt:
        run(config, workdir, interrupt, bool(values["override"].value))


if __name__ == "__main__":
    exit_with(main, sys.argv)
