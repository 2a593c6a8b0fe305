"""Trains a teacher and distils it, round by round, into fewer and fewer steps.

  progdist train runs/digits --config=digits
  progdist train runs/mine --config=folder:photos
  progdist train runs/cifar10 --config=cifar10 --config.data.dir=DATA --dry_run

The same command, or `progdist train WORKDIR`, resumes where it stopped. --list names
the presets, and --config.base.num_updates=100 overrides one field. For several machines
or processes, run the same command in each with --distributed, and a workdir on storage
that they share. WORKDIR may be gs://BUCKET/PATH, with the extra `gcs`.

Exit codes:
  0 done
  2 bad input, in one line
  3 training or sampling diverged
  4 something could not be written
  5 no progress, or another process was lost (134 where JAX saw it first)
  130, 143 stopped by Ctrl-C or SIGTERM, saved; the same command resumes
  129, 138, 140 stopped by SIGHUP, SIGUSR1 or SIGUSR2 in the same way
"""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from progdist.commands.parser import Flags, define_cluster
from progdist.config import Config, as_begun, from_json, plan_of, presets
from progdist.config.check import check
from progdist.errors import UsageError
from progdist.workdir import layout
from progdist.workdir.mirror import Mirror, open_workdir, path_of


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir", takes_config=True)
    flags.text("workdir", "Directory of the run; created if missing.")
    flags.switch(
        "override",
        "Resume even if the configuration differs from that of the first start.",
    )
    flags.switch("dry_run", "Print the plan of the run, and start nothing.")
    flags.switch("list", "List the presets.")
    flags.text("wandb", "Project of Weights & Biases to log to, beside TensorBoard.")
    about = "UPDATE:COUNT, as in 100:5: trace COUNT updates, the first being UPDATE."
    flags.text("profile", about)
    define_cluster(flags)
    return flags


def main(argv: list[str]) -> None:
    """Trains what the command line describes."""
    flags = define_flags()
    values = flags.parse(argv, __doc__)
    if values["list"]:
        print(_list_of_presets())
        return
    place, config = _open(flags, values)
    workdir = path_of(place)
    check(config)
    config = as_begun(config, workdir) or config
    if values["wandb"] is not None:
        from progdist.workdir import weights_and_biases

        weights_and_biases.check(values["wandb"])
    if _is_shown_again(config, place, values):
        return

    from progdist import parallel
    from progdist.commands import cluster, devices
    from progdist.trainer import dry_run
    from progdist.trainer.preemption import Interrupt
    from progdist.trainer.run import run

    may_import = bool(values["config"])  # a workdir's config.json names no code to run
    cluster.join(values)
    devices.prepare(config, values["num_processes"] or 1)
    config = parallel.together(lambda: _settled(config, workdir))
    profile = _profile(values["profile"], plan_of(config)[-1].end_update)
    if values["dry_run"]:
        dry_run.show(config, workdir, values["override"], may_import)
        return
    # After joining, which installs a SIGTERM handler of its own.
    with Interrupt() as interrupt:
        run(
            config,
            place,
            interrupt,
            values["override"],
            values["wandb"],
            profile,
            may_import,
        )


def _settled(config: Config, workdir: Path) -> Config:
    """Returns the configuration with what follows from its teacher."""
    from progdist.trainer import given

    config = given.settle(config, workdir)
    check(config)
    return config


def _is_shown_again(
    config: Config, place: Path | Mirror, values: dict[str, Any]
) -> bool:
    """Shows the end of a run that is finished; whether it is.

    Several processes decide together, in `run`, what is left to do.
    """
    workdir, names = path_of(place), ("dry_run", "override", "distributed", "profile")
    if any(values[name] for name in names) or not (workdir / layout.STARTS).exists():
        return False

    from progdist.trainer import conclusion

    finished = conclusion.is_finished(config, workdir)
    if finished:
        with place if isinstance(place, Mirror) else nullcontext():
            conclusion.show_again(config, workdir)
    return finished


def _profile(text: str | None, num_updates: int) -> range:
    """Returns the numbers of the updates to trace; none if the flag is not set."""
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    first, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= first + count - 1 <= num_updates:
        raise UsageError(
            f"--profile={text}: must be UPDATE:COUNT, such as 10:3, and within the "
            f"{num_updates:,} updates of the plan"
        )
    return range(first, first + count)


def _open(flags: Flags, values: dict[str, Any]) -> tuple[Path | Mirror, Config]:
    """Returns the workdir and the configuration, by default that of the workdir."""
    from progdist.data.progress import print_line

    flags.require(values, "workdir")
    place = open_workdir(values["workdir"], print_line)
    path = path_of(place) / layout.CONFIG
    if not values["config"] and path.exists():
        return place, from_json(path)
    if not values["config"]:
        raise UsageError("--config is missing; progdist train --list names the presets")
    return place, values["config"]


def _list_of_presets() -> str:
    rows = [f"{name:14} {presets.summary(name)}" for name in presets.preset_names()]
    text = "NAME:smoke is the same run at a small size, for every preset but folder."
    return "\n".join([*rows, "", text])
