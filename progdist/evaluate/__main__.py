"""Evaluates any round of a run, in any number of steps and with any sampler.

  python -m progdist.evaluate --workdir=runs/digits --metrics=fd,kid,pr
  python -m progdist.evaluate --workdir=runs/cifar10 --round=0 --num_steps=8,16,32
      --sampler=ddim,ancestral --gammas=0,0.1,0.3,1 --features=inception --num=50000

N is the number of network calls per image for every sampler: heun takes N / 2 steps.
--round=0 is the undistilled teacher; it can be sampled in any number of steps.

Metrics: fd, the Fréchet distance; kid, the kernel distance; is, the Inception Score;
pr, precision and recall. Features: pixels; inception (FID), with pytorch-fid's
resizing; inception_tf1, with torch-fidelity's; squeezenet, which needs the extra
`squeezenet`.

Appends rows to eval.jsonl. Each records the number of samples, the reference, and a
floor: the same metric between two disjoint halves of the real data. Existing rows are
not computed again, so the same command resumes where it stopped.

Exit codes: 0 done; 2 bad input, in one line; 4 a row could not be written; 5 another
process was lost.
"""

import functools
import itertools
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
from progdist.evaluate import evaluator, extraction, metrics, references, specs
from progdist.evaluate.evaluator import Evaluator
from progdist.evaluate.metrics import MetricSpec
from progdist.evaluate.specs import SamplerSpec
from progdist.model import param_template
from progdist.workdir import journal, layout
from progdist.workdir.lock import Lock
from progdist.workdir.rows import EvalRow, read_typed

FLAGS = flags.FlagValues()
cluster.define_flags(FLAGS)
_string = functools.partial(flags.DEFINE_string, flag_values=FLAGS)
_list = functools.partial(flags.DEFINE_list, flag_values=FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=FLAGS)
_string("workdir", None, "Directory of the run.")
_list("num_steps", [], "Network calls per image; by default each model's own number.")
_list("round", [], "Phases to evaluate; by default those trained for --num_steps.")
_list("sampler", ["ddim"], f"Samplers to evaluate: {', '.join(get_args(SolverName))}.")
_list("gammas", [], "Noise of the ancestral sampler, 0 to 1; by default the run's.")
_list("metrics", ["fd"], f"Metrics to compute: {', '.join(get_args(metrics.Metric))}.")
_list(
    "features",
    ["pixels"],
    f"Features to compare: {', '.join(get_args(extraction.Name))}.",
)
_integer("num", None, "Number of images; by default the run's.", 2)
_integer(
    "seed",
    None,
    "Random seed of the initial noise; by default the run's.",
    0,
    2**32 - 1,
)
_integer("batch_size", None, "Images sampled together; by default the run's.", 1)
_string("split", None, "Split of the reference data; by default the run's.")
_string("inception_weights", "", "File of Inception weights; downloaded if omitted.")


def main(argv: list[str]) -> None:
    """Evaluates what the flags describe."""
    cli.parse(FLAGS, argv, __doc__, required=("workdir",))
    values: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS}
    workdir, config = preflight.open_run(values["workdir"])
    config = _with_flags(config, values)
    preflight.check(config)
    sampler_specs = _plan(config, workdir, values)
    _check_words(config, values)
    cluster.join(FLAGS)
    cli.prepare_devices(config, values["num_processes"] or 1)
    preflight.check_memory(config, jax.process_count())
    with ExitStack() as stack:
        lock = Lock(workdir)
        parallel.on_process_zero(lambda: stack.enter_context(lock) and None)
        _run(config, workdir, values, sampler_specs, lock)


def _with_flags(config: Config, values: dict[str, Any]) -> Config:
    """Returns the run's configuration with the values of the flags."""
    evaluation = config.evaluation
    for flag, field in (
        ("num", "num_samples"),
        ("seed", "seed"),
        ("batch_size", "batch_size"),
    ):
        if values[flag] is not None:
            setattr(evaluation, field, values[flag])
    evaluation.grid_images = min(evaluation.grid_images, evaluation.num_samples)
    config.data.split = values["split"] or config.data.split
    return config


def _plan(config: Config, workdir: Path, values: dict[str, Any]) -> list[SamplerSpec]:
    gammas = _numbers(values, "gammas", float) or [config.evaluation.gamma]
    for gamma in gammas:
        if not 0 <= gamma <= 1:
            raise UsageError(f"--gammas={gamma}: must be 0 to 1")
    num_steps = _numbers(values, "num_steps", int)
    for n in num_steps:
        if not 1 <= n <= cli.MOST_STEPS:
            raise UsageError(f"--num_steps={n}: must be 1 to {cli.MOST_STEPS:,}")
    try:
        sampler_specs = specs.plan_specs(
            checkpoint.finished_models(workdir),
            _numbers(values, "round", int),
            num_steps,
            _words(values, "sampler", SolverName),
            gammas,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not sampler_specs:
        raise UsageError(f"--workdir={workdir}: no phase is finished yet")
    return sampler_specs


def _metrics(values: dict[str, Any]) -> list[MetricSpec]:
    names = _words(values, "metrics", metrics.Metric)
    return [metrics.make_metric(name) for name in names]


def _check_words(config: Config, values: dict[str, Any]) -> None:
    """Refuses unknown words and meaningless combinations."""
    metric_specs = _metrics(values)
    names = _words(values, "features", extraction.Name)
    for metric in metric_specs:
        if metric.needs.scores and "pixels" in names:
            raise UsageError(
                f"--metrics={metric.name}: needs a network's --features, not pixels"
            )
    if values["gammas"] and "ancestral" not in values["sampler"]:
        raise UsageError("--gammas: needs --sampler=ancestral")
    if values["inception_weights"] and not any("inception" in n for n in names):
        raise UsageError("--inception_weights: needs --features=inception")
    _check_count(metric_specs, config.evaluation.num_samples, "--num")


def _check_count(metric_specs: Sequence[MetricSpec], num: int, where: str) -> None:
    for metric in metric_specs:
        if num < metric.minimum:
            raise UsageError(
                f"--metrics={metric.name}: needs at least {metric.minimum} images, not "
                f"{where}={num}"
            )


def _run(
    config: Config,
    workdir: Path,
    values: dict[str, Any],
    sampler_specs: Sequence[SamplerSpec],
    lock: Lock,
) -> None:
    """Evaluates one model after another; process 0 writes the rows."""
    groups = {
        checkpoint.model_dir(workdir, *model): list(group)
        for model, group in itertools.groupby(
            sampler_specs, lambda spec: (spec.phase, spec.trained_steps)
        )
    }
    models = {path: preflight.open_model(config, path) for path in groups}
    evaluation = _evaluator(config, values)
    path = workdir / layout.EVALUATIONS
    parallel.on_process_zero(lambda: journal.mend(path))
    for model_dir, group in groups.items():
        model, rows = models[model_dir], read_typed(EvalRow, path)
        template = param_template(model, evaluation.mesh)
        params = checkpoint.load_model(model_dir, template)
        for result in evaluation.evaluate(model, params, group, rows):
            lock.check()
            _write(path, result)


def _write(path: Path, result: evaluator.Result) -> None:
    if jax.process_index():
        return
    if not result.rows:
        print(f"{result.spec}: already evaluated")
    for row in result.rows:
        journal.append(path, row.to_json())
        print(evaluator.line(result.spec, row))


def _evaluator(config: Config, values: dict[str, Any]) -> Evaluator:
    size, processes = config.evaluation.batch_size, jax.process_count()
    if processes > 1 and size % jax.device_count():
        devices = f"the {jax.device_count()} devices"
        raise UsageError(f"--batch_size={size}: must be a multiple of {devices}")
    source = preflight.open_source(config)
    metric_specs, split = _metrics(values), config.data.split
    _check_count(metric_specs, len(source), f"the data's {split}")
    devices, rows = None, -(-size // processes)
    if processes == 1:
        devices = parallel.devices_sharing(size)
    extractors = [
        extraction.make_extractor(
            name, config.data.image_shape, rows, values["inception_weights"]
        )
        for name in _words(values, "features", extraction.Name)
    ]
    reference = references.make_reference(source, split, size, config.data.num_workers)
    return Evaluator(
        parallel.make_mesh(devices),
        config.evaluation,
        extractors,
        metric_specs,
        reference,
    )


def _words(values: dict[str, Any], flag: str, choices: Any) -> list[Any]:
    """Returns the words of a flag; refuses any that the Literal type lacks."""
    known = get_args(choices)
    for word in values[flag]:
        if word not in known:
            raise UsageError(f"--{flag}={word}: is not one of {', '.join(known)}")
    if not values[flag]:
        raise UsageError(f"--{flag}: name at least one of {', '.join(known)}")
    return list(dict.fromkeys(values[flag]))


def _numbers(values: dict[str, Any], flag: str, kind: type) -> list[Any]:
    try:
        return list(dict.fromkeys(kind(word) for word in values[flag]))
    except ValueError:
        noun = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"--{flag}={','.join(values[flag])}: must be {noun}") from None


if __name__ == "__main__":
    exit_with(main, sys.argv)
