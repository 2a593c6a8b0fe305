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

Appends rows to eval.jsonl, or to --out. Each records the number of samples, the
reference, and a floor: the same metric between two disjoint halves of the real data.
Existing rows are not computed again, so the same command resumes where it stopped.

--images evaluates images from elsewhere, a folder or an .npz file (uint8 `arr_0`), by
their distance to the data of a run, or of a configuration. It prints the rows, and
appends them to --out:

  python -m progdist.evaluate --images=images.npz --workdir=runs/digits
  python -m progdist.evaluate --images=DIR --config=configs/cifar10.py
      --config.data.dir=DATA --features=inception --out=fid.jsonl

Exit codes: 0 done; 2 bad input, in one line; 4 a row could not be written; 5 another
process was lost.
"""

import functools
import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, get_args

import jax
from absl import flags

from progdist import checkpoint, cli, cluster, parallel, preflight
from progdist.config import Config, Features, Metric
from progdist.diffusion.settings import SolverName
from progdist.errors import UsageError, exit_with
from progdist.evaluate import evaluator, references, specs
from progdist.evaluate.evaluator import Evaluator
from progdist.evaluate.images import open_images
from progdist.evaluate.specs import SamplerSpec
from progdist.model import param_template
from progdist.workdir import files, journal, layout
from progdist.workdir.lock import Lock
from progdist.workdir.rows import EvalRow, ImagesRow, read_typed

# Flags of the models of a run.
_OF_MODELS = "num_steps", "round", "sampler", "gammas", "seed"
_WITHOUT_DIR = "digits", "random"
_Row = TypeVar("_Row", EvalRow, ImagesRow)


def define_flags() -> flags.FlagValues:
    """Returns the flags; parsing --config adds its overrides to them."""
    values = flags.FlagValues()
    cli.define_config(values)
    cluster.define_flags(values)
    string = functools.partial(flags.DEFINE_string, flag_values=values)
    names = functools.partial(flags.DEFINE_list, flag_values=values)
    integer = functools.partial(flags.DEFINE_integer, flag_values=values)
    string("workdir", None, "Directory of the run.")
    names("num_steps", [], "Network calls per image; by default each model's own.")
    names("round", [], "Phases to evaluate; by default those trained for --num_steps.")
    names("sampler", ["ddim"], f"Samplers to evaluate: {_names_of(SolverName)}.")
    names("gammas", [], "Noise of the ancestral sampler, 0 to 1; by default the run's.")
    names("metrics", None, f"Metrics, by default the run's: {_names_of(Metric)}.")
    names("features", None, f"Features, by default the run's: {_names_of(Features)}.")
    integer("num", None, "Number of images; by default the run's, or all.", 2)
    integer("seed", None, "Seed of the noise; by default the run's.", 0, 2**32 - 1)
    integer("batch_size", None, "Images processed together; by default the run's.", 1)
    string("split", None, "Split of the reference data; by default the run's.")
    string("data_dir", None, "Directory of the reference data; by default the run's.")
    string("images", None, "Images to evaluate, in place of models: DIR or FILE.npz.")
    string("out", None, "File of rows, FILE.jsonl; by default the run's eval.jsonl.")
    string("inception_weights", None, "File of Inception weights; else downloaded.")
    return values


def main(argv: list[str]) -> None:
    """Evaluates what the flags describe."""
    parsed = define_flags()
    cli.parse(parsed, argv, __doc__)
    values: dict[str, Any] = {name: parsed[name].value for name in parsed}
    workdir, config = _open(parsed, values)
    _check_words(config, values)
    out = _check_out(workdir, values)
    sampler_specs = _plan(config, workdir, values) if values["images"] is None else []
    cluster.join(parsed)
    cli.prepare_devices(config, values["num_processes"] or 1)
    preflight.check_memory(config, jax.process_count())
    if values["images"] is not None:
        _evaluate_images(config, values, out)
        return
    lock = Lock(workdir)
    with ExitStack() as stack:
        if not values["out"]:
            parallel.on_process_zero(lambda: stack.enter_context(lock) and None)
        _evaluate_models(config, workdir, out, sampler_specs, lock)


def _open(parsed: flags.FlagValues, values: dict[str, Any]) -> tuple[Path, Config]:
    """Returns the run's directory, "" without a run, and the checked configuration."""
    has = {name: values[name] is not None for name in ("workdir", "config", "images")}
    if has["config"] and not (has["images"] and not has["workdir"]):
        raise UsageError("--config: goes with --images, without --workdir")
    if not has["workdir"] and not has["config"]:
        raise UsageError("--workdir is missing; see --help")
    for name in _OF_MODELS if has["images"] else ():
        if parsed[name].present:
            raise UsageError(f"--{name}: does not go with --images")
    if has["config"]:
        config = _with_flags(cli.get_config(parsed), values)
        preflight.check_reference(config)
        return Path(), config
    workdir, config = preflight.open_run(values["workdir"])
    config = _with_flags(config, values)
    preflight.check(config)
    return workdir, config


def _with_flags(config: Config, values: dict[str, Any]) -> Config:
    """Returns the run's configuration with the values of the flags."""
    evaluation = config.evaluation
    given = {name: value for name, value in values.items() if value is not None}
    evaluation.num_samples = given.get("num", evaluation.num_samples)
    evaluation.batch_size = given.get("batch_size", evaluation.batch_size)
    evaluation.seed = given.get("seed", evaluation.seed)
    evaluation.grid_images = min(evaluation.grid_images, evaluation.num_samples)
    evaluation.inception_weights = given.get(
        "inception_weights", evaluation.inception_weights
    )
    if values["metrics"] is not None:
        evaluation.metrics = tuple(_words(values, "metrics", Metric))
    if values["features"] is not None:
        evaluation.features = tuple(_words(values, "features", Features))
    if "data_dir" in given and config.data.name in _WITHOUT_DIR:
        raise UsageError(f"--data_dir: the data {config.data.name!r} has no directory")
    config.data.dir = given.get("data_dir", config.data.dir)
    config.data.split = given.get("split", config.data.split)
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


def _check_words(config: Config, values: dict[str, Any]) -> None:
    """Refuses meaningless combinations of flags."""
    evaluation = config.evaluation
    if values["gammas"] and "ancestral" not in values["sampler"]:
        raise UsageError("--gammas: needs --sampler=ancestral")
    if values["inception_weights"] and not any(
        "inception" in name for name in evaluation.features
    ):
        raise UsageError("--inception_weights: needs --features=inception")
    counts = {} if values["images"] else {"--num": evaluation.num_samples}
    evaluator.check(evaluation, counts, "--")


def _check_out(workdir: Path, values: dict[str, Any]) -> Path:
    """Returns the file of the rows; refuses one that cannot be written."""
    if values["out"] is None:
        if values["images"] is None and not os.access(workdir, os.W_OK):
            raise UsageError(
                f"--workdir={workdir}: is not writable; --out=FILE.jsonl puts the rows "
                "elsewhere"
            )
        return workdir / layout.EVALUATIONS
    out = files.expand(values["out"])
    if out.suffix != ".jsonl" or out.is_dir():
        raise UsageError(f"--out={out}: must be a file in .jsonl")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")
    if not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise UsageError(f"--out={out}: is not writable")
    return out


def _evaluate_models(
    config: Config,
    workdir: Path,
    out: Path,
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
    evaluation = _make_evaluator(config)
    rows = _read_rows(EvalRow, out)
    for model_dir, group in groups.items():
        model = models[model_dir]
        params = checkpoint.load_model(
            model_dir, param_template(model, evaluation.mesh)
        )
        for result in evaluation.evaluate(model, params, group, rows):
            lock.check()
            _write(out, result.spec, result.rows)


def _evaluate_images(config: Config, values: dict[str, Any], out: Path) -> None:
    """Compares images with the data; process 0 writes the rows, if there is --out."""
    path, settings = files.expand(values["images"]), config.evaluation
    workers = config.data.num_workers
    source = open_images(path, config.data.image_shape, workers)
    num = values["num"] or len(source)
    if num > len(source):
        raise UsageError(f"--num={num}: there are {len(source)} images in {path}")
    settings.num_samples = num
    evaluator.check(settings, {"--images": num}, "--")
    evaluation = _make_evaluator(config)
    images = references.make_reference(source, "", settings.batch_size, workers)
    images = images._replace(name=str(path))
    rows = _read_rows(ImagesRow, out) if values["out"] else []
    rows = evaluation.evaluate_images(images, rows)
    _write(out if values["out"] else None, path, rows)


def _read_rows(kind: type[_Row], path: Path) -> list[_Row]:
    parallel.on_process_zero(lambda: journal.mend(path))
    return read_typed(kind, path)


def _write(
    path: Path | None, title: object, rows: Sequence[EvalRow] | Sequence[ImagesRow]
) -> None:
    if jax.process_index():
        return
    if not rows:
        print(f"{title}: already evaluated")
    for row in rows:
        if path:
            journal.append(path, row.to_json())
        print(evaluator.line(title, row))


def _make_evaluator(config: Config) -> Evaluator:
    settings, processes = config.evaluation, jax.process_count()
    size, split = settings.batch_size, config.data.split
    if processes > 1 and size % jax.device_count():
        devices = f"the {jax.device_count()} devices"
        raise UsageError(f"--batch_size={size}: must be a multiple of {devices}")
    source = preflight.open_data(config.data)
    evaluator.check(settings, {f"the data's {split}": len(source)}, "--")
    devices = parallel.devices_sharing(size) if processes == 1 else None
    extractors = evaluator.open_extractors(settings, config.data.image_shape)
    reference = references.make_reference(source, split, size, config.data.num_workers)
    return Evaluator(parallel.make_mesh(devices), settings, extractors, reference)


def _names_of(choices: Any) -> str:
    return ", ".join(get_args(choices))


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
