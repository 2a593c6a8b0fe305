"""Evaluation of the models of a run, and of images from elsewhere."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import jax

from progdist import checkpoint, parallel, preflight
from progdist.config import Config
from progdist.data import progress
from progdist.data.progress import Counting
from progdist.errors import UsageError
from progdist.evaluate import evaluator, references, specs
from progdist.evaluate.evaluator import Evaluator
from progdist.evaluate.images import open_images
from progdist.evaluate.specs import SamplerSpec
from progdist.model import param_template
from progdist.nets.types import MatmulPrecision
from progdist.sampling import cards
from progdist.workdir import files, journal, layout
from progdist.workdir.lock import Lock
from progdist.workdir.mirror import Mirror, lock_of, path_of
from progdist.workdir.rows import EvalRow, ImagesRow, read_typed

Measuring = AbstractContextManager[Counting]
UNINTERRUPTED: Measuring = nullcontext(progress.counting)

_Row = TypeVar("_Row", EvalRow, ImagesRow)


def check(
    config: Config, workdir: Path | None, values: dict[str, Any]
) -> list[SamplerSpec]:
    """Returns how to sample the models of a run; none without a run.

    Args:
      config: the configuration, with the flags of the command.
      workdir: directory of the run.
      values: round, num_steps, sampler and gammas, empty or None for the defaults.

    Raises:
      UsageError: if a model is missing, or a metric cannot be computed.
    """
    evaluation = config.evaluation
    counts = {"--num": evaluation.num_samples} if workdir else {}
    evaluator.check(evaluation, counts, "--")
    if not workdir:
        return []
    try:
        sampler_specs = specs.plan_specs(
            checkpoint.finished_models(workdir),
            values["round"],
            values["num_steps"],
            values["sampler"] or ["ddim"],
            values["gammas"] or [evaluation.gamma],
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not sampler_specs:
        raise UsageError(f"--workdir={workdir}: no phase is finished yet")
    return sampler_specs


def evaluate_models(
    config: Config,
    workdir: Path | Mirror,
    sampler_specs: Sequence[SamplerSpec],
    out: Path | None = None,
    precision: MatmulPrecision | None = None,
    measuring: Measuring = UNINTERRUPTED,
) -> None:
    """Evaluates one model after another; process 0 writes the rows.

    Args:
      config: configuration of the run.
      workdir: directory of the run, or a copy of one in a bucket; it is locked unless
        the rows go elsewhere.
      sampler_specs: from `check`.
      out: file of the rows; None for the run's own, and the cards of its models.
      precision: precision of the network's products; None for that of each card.
      measuring: shows the progress of measurements; entered once all is open.
    """
    preflight.check_memory(config, jax.process_count())
    lock, workdir = lock_of(workdir), path_of(workdir)
    path = out or workdir / layout.EVALUATIONS
    with ExitStack() as stack:
        if not out:
            parallel.on_process_zero(lambda: stack.enter_context(lock) and None)
        if isinstance(lock, Mirror):
            parallel.together(lock.pull_unless_owned)
        evaluation = _make_evaluator(config, path.parent, stack, measuring)
        models = _evaluate(evaluation, workdir, path, sampler_specs, lock, precision)
        for model_dir in models:
            if not out and not jax.process_index():
                _add_to_card(model_dir, path)


def evaluate_images(
    config: Config,
    path: Path,
    num: int | None = None,
    out: Path | None = None,
    measuring: Measuring = UNINTERRUPTED,
) -> None:
    """Compares images with the data; process 0 writes the rows, if there is a file.

    Args:
      config: configuration of the data and of the evaluation.
      path: folder or file of the images.
      num: how many to take; None for all.
      out: file of the rows, if any.
      measuring: as in `evaluate_models`.
    """
    preflight.check_memory(config, jax.process_count())
    settings = config.evaluation
    workers = config.data.num_workers
    source = open_images(path, config.data.image_shape, workers)
    num = num or len(source)
    if num > len(source):
        raise UsageError(f"--num={num}: there are {len(source)} images in {path}")
    settings.num_samples = num
    evaluator.check(settings, {"--images": num}, "--")
    images = references.make_reference(source, "", settings.batch_size, workers)
    images = images._replace(name=str(path))
    rows = _read_rows(ImagesRow, out) if out else []
    with ExitStack() as stack:
        evaluation = _make_evaluator(config, files.cache_dir(), stack, measuring)
        rows = evaluation.evaluate_images(images, rows)
        _write(out, path, rows)


def _evaluate(
    evaluation: Evaluator,
    workdir: Path,
    out: Path,
    sampler_specs: Sequence[SamplerSpec],
    lock: Lock | Mirror,
    precision: MatmulPrecision | None,
) -> Iterator[Path]:
    """Evaluates one model after another; yields the directory of each."""
    groups = {
        checkpoint.model_dir(workdir, *model): list(group)
        for model, group in itertools.groupby(
            sampler_specs, lambda spec: (spec.phase, spec.trained_steps)
        )
    }
    models = {
        path: cards.model_of(cards.read_card(path), str(path), precision)
        for path in groups
    }
    rows = _read_rows(EvalRow, out)
    for model_dir, group in groups.items():
        model = models[model_dir]
        params = checkpoint.load_model(
            model_dir, param_template(model, evaluation.mesh)
        )
        for result in evaluation.evaluate(model, params, group, rows):
            lock.check()
            _write(out, result.spec, result.rows)
        yield model_dir


def _add_to_card(model_dir: Path, path: Path) -> None:
    """Adds the rows to the card of a model; says so if it cannot be written."""
    try:
        cards.write_distances(model_dir, read_typed(EvalRow, path))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        progress.print_line(f"{reason}; the rows are in {path} alone")


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


def _make_evaluator(
    config: Config, directory: Path, stack: ExitStack, measuring: Measuring
) -> Evaluator:
    """Opens the data and the features, then enters `measuring` until the stack ends."""
    settings, processes = config.evaluation, jax.process_count()
    size, split = settings.batch_size, config.data.split
    if processes > 1 and size % jax.device_count():
        devices = f"the {jax.device_count()} devices"
        raise UsageError(f"--batch_size={size}: must be a multiple of {devices}")
    # Labels are not compared; made images depend on the number of classes.
    classes = config.net.num_classes if config.data.name == "random" else 0
    source = preflight.open_data(config.data, classes)
    evaluator.check(settings, {f"the data's {split}": len(source)}, "--")
    devices = parallel.devices_sharing(size) if processes == 1 else None
    extractors = evaluator.open_extractors(settings, config.data.image_shape)
    reference = references.make_reference(
        source, split, size, config.data.num_workers, settings.reference_images
    )
    return Evaluator(
        parallel.make_mesh(devices),
        settings,
        extractors,
        reference._replace(counting=stack.enter_context(measuring)),
        directory / layout.MEASURING,
    )
