"""Evaluates any round of a run, in any number of steps and with any sampler.

  progdist evaluate runs/digits --metrics=fd,kid,pr
  progdist evaluate runs/cifar10 --round=0 --num_steps=8,16,32
      --sampler=ddim,ancestral --gammas=0,0.1,0.3,1 --features=inception --num=50000

N is the number of network calls per image for every sampler: heun takes N / 2 steps.
--round=0 is the undistilled teacher; it can be sampled in any number of steps.

Metrics: fd, the Fréchet distance; kid, the kernel distance; is, the Inception Score;
pr, precision and recall. Features: pixels; inception (FID), with pytorch-fid's
resizing; inception_tf1, with torch-fidelity's; squeezenet, which needs the extra
`squeezenet`.

--protocol=published is the paper's FID: the Fréchet distance, on inception_tf1, of
50,000 samples to all training images.

Appends rows to eval.jsonl, or to --out. Each records the number of samples, the
reference, and a floor: the same metric between two disjoint halves of the real data.
Existing rows are not computed again, and a measurement that was interrupted resumes
from the images that it has, so the same command resumes where it stopped.

--images evaluates images from elsewhere, a folder or an .npz file (uint8 `arr_0`), by
their distance to the data of a run, or of a configuration. It prints the rows, and
appends them to --out:

  progdist evaluate --images=images.npz --workdir=runs/digits
  progdist evaluate --images=DIR --config=cifar10
      --config.data.dir=DATA --features=inception --out=fid.jsonl

Exit codes: 0 done; 2 bad input, in one line; 4 a row could not be written; 5 another
process was lost; 128 + n stopped by signal n.
"""

import os
from pathlib import Path
from typing import Any

from progdist.commands.parser import Flags, define_cluster
from progdist.config import Config, Features, Metric, open_run
from progdist.config.check import check, check_reference
from progdist.diffusion.settings import SolverName
from progdist.errors import UsageError
from progdist.evaluate.published import PROTOCOL, Protocol
from progdist.nets.types import MatmulPrecision
from progdist.plan import MOST_STEPS
from progdist.workdir import files, layout
from progdist.workdir.copies import local
from progdist.workdir.mirror import Mirror, open_workdir, path_of

# Flags of the models of a run.
_OF_MODELS = "num_steps", "round", "sampler", "gammas", "seed", "precision"
# Flags named as fields of the evaluation.
_OF_EVALUATION = (
    "batch_size",
    "seed",
    "inception_weights",
    "metrics",
    "features",
    "reference_images",
)
_WITHOUT_DIR = "digits", "random"


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir", takes_config=True)
    flags.text("workdir", "Directory of the run.")
    about = "Network calls per image; by default each model's own. Also --steps."
    flags.numbers("num_steps", about, int, 1, MOST_STEPS)
    about = "Rounds to evaluate, 0 for the teacher; by default those of --num_steps."
    flags.numbers("round", about, int, 0, 100)
    flags.choices("sampler", "Samplers to evaluate; by default ddim.", SolverName)
    about = "Noise of the ancestral sampler, 0 to 1; by default the run's."
    flags.numbers("gammas", about, float, 0, 1)
    flags.choices("metrics", "Metrics; by default the run's.", Metric)
    flags.choices("features", "Features; by default the run's.", Features)
    about = "The paper's FID: sets metrics, features, split and numbers of images."
    flags.choice("protocol", about, Protocol, None)
    flags.number("num", "Number of images; by default the run's, or all.", low=2)
    about = "Images of the data to compare with, 0 for all; by default the run's."
    flags.number("reference_images", about)
    flags.number("seed", "Seed of the noise; by default the run's.", high=2**32 - 1)
    about = "Images processed together; by default the run's."
    flags.number("batch_size", about, low=1)
    about = "Precision of the network's products; by default the run's."
    flags.choice("precision", about, MatmulPrecision)
    flags.text("split", "Split of the reference data; by default the run's.")
    flags.text("data_dir", "Directory of the reference data; by default the run's.")
    flags.text("images", "Images to evaluate, in place of models: DIR or FILE.npz.")
    flags.text(
        "out", "File to append rows to, FILE.jsonl; by default the run's eval.jsonl."
    )
    flags.text("inception_weights", "File of Inception weights; downloaded if omitted.")
    define_cluster(flags)
    return flags


def main(argv: list[str]) -> None:
    """Evaluates what the command line describes."""
    values = define_flags().parse(argv, __doc__)
    if values["protocol"]:
        _take_protocol(values)
    place, config = _open(values)
    workdir = path_of(place)
    _check_words(config, values)
    out = _check_out(workdir, values)

    from progdist.commands import cluster, devices
    from progdist.evaluate import run
    from progdist.trainer.preemption import interruptible

    images = None if values["images"] is None else local(values["images"])
    specs = run.check(config, None if images else workdir, values)
    cluster.join(values)
    devices.prepare(config, values["num_processes"] or 1)
    measuring, precision = interruptible(), values["precision"]
    if images:
        run.evaluate_images(config, images, values["num"], out, measuring)
    else:
        run.evaluate_models(config, place, specs, out, precision, measuring)


def _open(values: dict[str, Any]) -> tuple[Path | Mirror, Config]:
    """Returns the run's directory, "" without a run, and the checked configuration."""
    has = {name: values[name] is not None for name in ("workdir", "config", "images")}
    if has["config"] and not (has["images"] and not has["workdir"]):
        raise UsageError("--config: goes with --images, without --workdir")
    if not has["workdir"] and not has["config"]:
        raise UsageError("WORKDIR or --workdir is missing; see --help")
    for name in _OF_MODELS if has["images"] else ():
        if values[name] not in (None, ()):
            raise UsageError(f"--{name}: does not go with --images")
    if has["config"]:
        config = _with_flags(values["config"], values)
        check_reference(config)
        return Path(), config
    place = _open_workdir(values)
    _, config = open_run(str(path_of(place)))
    config = _with_flags(config, values)
    check(config)
    return place, config


def _open_workdir(values: dict[str, Any]) -> Path | Mirror:
    """Returns the workdir to own, or a path to read if no rows go into it."""
    from progdist.data.progress import print_line

    if values["images"] or values["out"]:
        return local(values["workdir"], layout.is_of_evaluation).absolute()
    return open_workdir(values["workdir"], print_line, has_checkpoints=False)


def _with_flags(config: Config, values: dict[str, Any]) -> Config:
    """Returns the run's configuration with the values of the flags."""
    evaluation = config.evaluation
    given = {name: value for name, value in values.items() if value is not None}
    evaluation.num_samples = given.get("num", evaluation.num_samples)
    evaluation.grid_images = min(evaluation.grid_images, evaluation.num_samples)
    for name in _OF_EVALUATION:
        setattr(evaluation, name, given.get(name, getattr(evaluation, name)))
    for name in ("metrics", "features"):
        if not getattr(evaluation, name):
            raise UsageError(f"--{name}: name at least one")
    if "data_dir" in given and config.data.name in _WITHOUT_DIR:
        raise UsageError(f"--data_dir: the data {config.data.name!r} has no directory")
    config.data.dir = given.get("data_dir", config.data.dir)
    config.data.split = given.get("split", config.data.split)
    return config


def _take_protocol(values: dict[str, Any]) -> None:
    """Sets the flags to the published protocol; refuses those that contradict it."""
    for field, value in (PROTOCOL | {"split": "train"}).items():
        name = "num" if field == "num_samples" else field
        if values[name] not in (None, value):
            text = ",".join(value) if isinstance(value, tuple) else value
            rule = f"--protocol=published sets it to {text}"
            raise UsageError(f"--{name}: {rule}; leave out one of them")
        values[name] = value


def _check_words(config: Config, values: dict[str, Any]) -> None:
    """Refuses meaningless combinations of flags."""
    if values["gammas"] and "ancestral" not in (values["sampler"] or ()):
        raise UsageError("--gammas: needs --sampler=ancestral")
    if values["inception_weights"] and not any(
        "inception" in name for name in config.evaluation.features
    ):
        raise UsageError("--inception_weights: needs --features=inception")


def _check_out(workdir: Path, values: dict[str, Any]) -> Path | None:
    """Returns the file of the rows, None for that of the run, if there is one.

    Raises:
      UsageError: if it cannot be written.
    """
    if values["out"] is None:
        if values["images"] is None and not os.access(workdir, os.W_OK):
            raise UsageError(
                f"--workdir={workdir}: is not writable; --out=FILE.jsonl puts the rows "
                "elsewhere"
            )
        return None
    out = files.expand(values["out"])
    if out.suffix != ".jsonl" or out.is_dir():
        raise UsageError(f"--out={out}: must be a file in .jsonl")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")
    if not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise UsageError(f"--out={out}: is not writable")
    return out
