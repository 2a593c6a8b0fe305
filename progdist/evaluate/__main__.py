"""Measures any round of a run, drawn in any number of steps by any sampler.

  python -m progdist.evaluate --workdir=runs/digits --metrics=fd,kid,pr
  python -m progdist.evaluate --workdir=runs/cifar10 --round=0 --num_steps=8,16,32
      --sampler=ddim,ancestral --gammas=0,0.1,0.3,1 --features=inception --num=50000

N is the number of network calls an image, of every sampler: heun takes N / 2 steps.
Features: pixels (FD-pixels); squeezenet, which comes with the extra of that name;
inception (FID, IS, KID, precision, recall), as pytorch-fid has it, or inception_tf1, as
torch-fidelity. Metrics: fd, kid, is, pr (two numbers). Rows are appended to eval.jsonl,
each with its count, reference and what real images come to; those that are there
already are not computed again, so the same command goes on where it was stopped.

Exit codes: 0 done; 2 bad input, in one line; 4 a row could not be written; 5 another
process was lost.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import jax
from absl import flags

from progdist import checkpoint, cli, cluster, parallel, preflight
from progdist.config import Config
from progdist.diffusion.settings import SolverName
from progdist.errors import UsageError, exit_with
from progdist.evaluate import (
    evaluator,
    extraction,
    metrics,
    references,
    sweep,
)
from progdist.evaluate.evaluator import Drawing
from progdist.workdir.lock import Lock

FLAGS = flags.FlagValues()
cluster.define_flags(FLAGS)
flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=FLAGS)
flags.DEFINE_list(
    "num_steps", [], "Network calls an image; else each model's.", flag_values=FLAGS
)
flags.DEFINE_list(
    "round", [], "Phases, 0 is the teacher; else by --num_steps.", flag_values=FLAGS
)
flags.DEFINE_list("sampler", ["ddim"], "Any of them.", flag_values=FLAGS)
flags.DEFINE_list(
    "gammas", [], "Of the ancestral sampler; else the run's.", flag_values=FLAGS
)
flags.DEFINE_list("metrics", ["fd"], "fd, kid, is, pr.", flag_values=FLAGS)
flags.DEFINE_list("features", ["pixels"], "Any of them.", flag_values=FLAGS)
flags.DEFINE_integer(
    "num", None, "How many images; else as in the run.", 2, flag_values=FLAGS
)
flags.DEFINE_integer("seed", None, "Of the noise; else the run's.", 0, 2**32 - 1, FLAGS)
flags.DEFINE_integer("batch_size", None, "Else the run's.", 1, flag_values=FLAGS)
flags.DEFINE_string("split", None, "Of the data; else the run's.", flag_values=FLAGS)
flags.DEFINE_string(
    "inception_weights", "", "File of them; else downloaded.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Measures what the flags describe."""
    cli.parse(FLAGS, argv, __doc__, required=("workdir",))
    given: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS}
    workdir, config = preflight.open_run(given["workdir"])
    config = _with_flags(config, given)
    preflight.check(config)
    drawings = _plan(config, workdir, given)
    _check_words(config, given)
    cli.prepare_devices(config, given["num_processes"] or 1)
    cluster.join(FLAGS)
    with ExitStack() as stack:
        parallel.on_process_zero(lambda: stack.enter_context(Lock(workdir)) and None)
        _run(config, workdir, given, drawings)


def _with_flags(config: Config, given: dict[str, Any]) -> Config:
    """The run's configuration with what the flags set."""
    evaluation = config.evaluation
    for flag, field in (
        ("num", "num_samples"),
        ("seed", "seed"),
        ("batch_size", "batch_size"),
    ):
        if given[flag] is not None:
            setattr(evaluation, field, given[flag])
    evaluation.grid_images = min(evaluation.grid_images, evaluation.num_samples)
    config.data.split = given["split"] or config.data.split
    return config


def _plan(config: Config, workdir: Path, given: dict[str, Any]) -> list[Drawing]:
    gammas = _numbers(given, "gammas", float) or [config.evaluation.gamma]
    for gamma in gammas:
        if not 0 <= gamma <= 1:
            raise UsageError(f"--gammas={gamma}: must be 0 to 1")
    num_steps = _numbers(given, "num_steps", int)
    for n in num_steps:
        if not 1 <= n <= cli.MOST_STEPS:
            raise UsageError(f"--num_steps={n}: must be 1 to {cli.MOST_STEPS:,}")
    try:
        drawings = sweep.plan(
            checkpoint.finished_models(workdir),
            _numbers(given, "round", int),
            num_steps,
            _words(given, "sampler", SolverName),
            gammas,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not drawings:
        raise UsageError(f"--workdir={workdir}: no phase is finished yet")
    return drawings


def _check_words(config: Config, given: dict[str, Any]) -> None:
    """Refuses words and pairs of them that mean nothing."""
    wanted = _words(given, "metrics", metrics.Metric)
    names = _words(given, "features", extraction.Name)
    if "is" in wanted and "pixels" in names:
        raise UsageError("--metrics=is: needs a network's --features, not pixels")
    if given["gammas"] and "ancestral" not in given["sampler"]:
        raise UsageError("--gammas: is for --sampler=ancestral, which is not asked")
    if given["inception_weights"] and not {"inception", "inception_tf1"} & set(names):
        raise UsageError("--inception_weights: is for --features=inception")
    _check_count(wanted, config.evaluation.num_samples, "--num")


def _check_count(wanted: Sequence[metrics.Metric], num: int, where: str) -> None:
    for metric in wanted:
        least = metrics.least(metric)
        if num < least:
            raise UsageError(
                f"--metrics={metric}: needs at least {least} images, not {where}={num}"
            )


def _run(
    config: Config, workdir: Path, given: dict[str, Any], drawings: Sequence[Drawing]
) -> None:
    models = dict.fromkeys((one.phase, one.trained_steps) for one in drawings)
    for phase, trained_steps in models:
        path = checkpoint.model_dir(workdir, phase, trained_steps)
        preflight.check_card(
            preflight.make_model(config), path, checkpoint.read_card(path)
        )
    gauge = _gauge(config, given)
    note = print if jax.process_index() == 0 else lambda text: None
    sweep.run(gauge, workdir, drawings, note)


def _gauge(config: Config, given: dict[str, Any]) -> evaluator.Gauge:
    settings, shape = config.evaluation, config.data.image_shape
    size, processes = settings.batch_size, jax.process_count()
    if processes > 1 and size % jax.device_count():
        devices = f"the {jax.device_count()} devices"
        raise UsageError(f"--batch_size={size}: must be a multiple of {devices}")
    wanted = _words(given, "metrics", metrics.Metric)
    source = preflight.open_source(config)
    _check_count(wanted, len(source), f"the data's {config.data.split}")
    return evaluator.make_gauge(
        preflight.make_model(config),
        parallel.make_mesh(parallel.devices_sharing(size) if processes == 1 else None),
        evaluator.Samples(settings.num_samples, settings.seed, size),
        [
            extraction.make_extractor(
                name, shape, -(-size // processes), given["inception_weights"]
            )
            for name in _words(given, "features", extraction.Name)
        ],
        wanted,
        references.make_reference(
            source, config.data.split, size, config.data.num_workers
        ),
    )


def _words(given: dict[str, Any], flag: str, choices: Any) -> list[Any]:
    """A flag's words, each of them one of a literal type's."""
    known = [w for c in get_args(choices) for w in (get_args(c) or (c,))]
    for word in given[flag]:
        if word not in known:
            raise UsageError(f"--{flag}={word}: is not one of {', '.join(known)}")
    if not given[flag]:
        raise UsageError(f"--{flag}: name at least one of {', '.join(known)}")
    return list(dict.fromkeys(given[flag]))


def _numbers(given: dict[str, Any], flag: str, kind: type) -> list[Any]:
    try:
        return list(dict.fromkeys(kind(word) for word in given[flag]))
    except ValueError:
        noun = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{flag}={','.join(given[flag])}: must be {noun}") from None


if __name__ == "__main__":
    exit_with(main, sys.argv)
