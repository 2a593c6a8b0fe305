"""Measures the FID of the paper's CIFAR-10 models, beside the published values.

  progdist reproduce runs/paper --config=cifar10 --dry_run
  progdist reproduce runs/paper --config=cifar10
  progdist reproduce runs/paper --config=cifar10 --steps=1,2,4 --curves=distilled
      --num=5000 --batch_size=128

Downloads CIFAR-10, the Inception network of FID and the released checkpoints, saves
these as the models of WORKDIR, and evaluates them as the paper does: 50,000 samples
against the 50,000 training images. Prints a table and writes it to
WORKDIR/reproduction.md. In the workdir of a training run it evaluates the models of
that run.

--curves: distilled, the students at their own number of steps; ddim and ancestral, the
original model, with ancestral at each of --gammas. The same command resumes where it
stopped: nothing is downloaded or evaluated twice. --dry_run lists the downloads and the
number of network passes, most of them at the largest numbers of steps. It has been
tested with small stand-in files, not with the real ones.

Downloads are verified by their digests. A checkpoint has no published SHA-256: it is
compared with the MD5 in the listing of its folder, and its SHA-256 is recorded in
WORKDIR/SHA256SUMS, so that another file of that name is refused later.

Without a network, pass --checkpoints=DIR, --config.data.dir=FILE (the archive
cifar-10-binary.tar.gz) and --config.evaluation.inception_weights=FILE. With a mirror,
set PROGDIST_MIRROR=URL: https://HOST/PATH is then read from URL/HOST/PATH.

Exit codes: 0 done; 2 bad input, in one line; 4 something could not be written; 128 + n
stopped by signal n.
"""

from typing import Any

from progdist.commands.parser import Flags
from progdist.config import Config
from progdist.config.check import check
from progdist.errors import UsageError
from progdist.evaluate.published import CHECKPOINTS, NUM_STEPS, Curve
from progdist.plan import MOST_STEPS
from progdist.workdir import files

_DATA = "cifar10"


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir", takes_config=True)
    flags.text("workdir", "Directory of the models, their rows and the table.")
    about = "Network calls per image; by default those of the paper. Also --steps."
    flags.numbers("num_steps", about, int, 1, MOST_STEPS)
    about = "Curves of the paper's figure."
    flags.choices("curves", about, Curve, ("distilled", "ddim"))
    about = "Noise of the ancestral sampler, 0 to 1; by default 0.3."
    flags.numbers("gammas", about, float, 0, 1)
    flags.number("num", "Number of images; by default 50,000, as in the paper.", low=2)
    flags.number("batch_size", "Images processed together; by default 512.", low=1)
    about = "Folder of released checkpoints: gs://BUCKET/FOLDER or DIR."
    flags.text("checkpoints", about, CHECKPOINTS)
    flags.switch("dry_run", "List downloads and network passes, and start nothing.")
    return flags


def main(argv: list[str]) -> None:
    """Evaluates the models that the command line describes."""
    values = define_flags().parse(argv, __doc__, "workdir", "config")
    config, workdir = values["config"], files.expand(values["workdir"]).absolute()
    _check(config, values)

    from progdist.commands import devices
    from progdist.evaluate import reproduction
    from progdist.trainer.preemption import interruptible

    request = reproduction.Request(
        values["curves"],
        values["num_steps"] or NUM_STEPS,
        values["gammas"] or [config.evaluation.gamma],
        values["checkpoints"],
    )
    if values["dry_run"]:
        print("\n".join(reproduction.dry_run(config, workdir, request)))
        return
    devices.prepare(config)
    measuring = interruptible()
    print(reproduction.reproduce(config, workdir, request, measuring), end="")


def _check(config: Config, values: dict[str, Any]) -> None:
    """Refuses what the paper's values do not describe."""
    settings = config.evaluation
    settings.num_samples = values["num"] or settings.num_samples
    settings.batch_size = values["batch_size"] or settings.batch_size
    settings.grid_images = 1  # none is kept
    check(config)
    if config.data.name != _DATA:
        name = config.data.name
        raise UsageError(f"--config: its data is {name!r}; the paper's is {_DATA!r}")
    if values["gammas"] and "ancestral" not in values["curves"]:
        raise UsageError("--gammas: needs --curves=ancestral")
