"""Evaluates models by metrics of their samples: images to the rows of eval.jsonl.

A row holds everything its value depends on, and a floor: the same metric between two
disjoint halves of the real data. Rows of different runs and commands can therefore be
compared, and none is computed twice.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from progdist import checkpoint, parallel
from progdist.config import Evaluation
from progdist.diffusion import schedules
from progdist.errors import UsageError
from progdist.evaluate import extraction, metrics, references
from progdist.evaluate.drawing import Drawing
from progdist.evaluate.extraction import Extractor
from progdist.evaluate.metrics import MetricSpec, Statistics
from progdist.evaluate.partial import Partial
from progdist.evaluate.references import Reading, Reference
from progdist.evaluate.specs import SamplerSpec
from progdist.model import Model, Params
from progdist.sampling.draw import Batches, Sampler, compile_sampler, make_sampler
from progdist.workdir import rows as workdir_rows
from progdist.workdir.rows import EvalRow, ImagesRow

_Row = TypeVar("_Row", EvalRow, ImagesRow)


class Result(NamedTuple):
    """Result of evaluating one model with one sampler.

    Attributes:
      spec: the sampler and its number of steps.
      rows: rows of the missing metrics; empty if none was missing, and on all
        processes but the first.
      images: the first samples, up to `grid_images`; empty if no metric was missing.
    """

    spec: SamplerSpec
    rows: list[EvalRow]
    images: UInt8[np.ndarray, "n h w c"]


class _Task(NamedTuple):
    """A metric to compute, with a blank row for each of its values."""

    extractor: Extractor
    metric: MetricSpec
    blanks: list[Any]


def check(settings: Evaluation, counts: Mapping[str, int], prefix: str) -> None:
    """Refuses metrics that cannot be computed.

    Args:
      settings: names of the metrics and features.
      counts: numbers of images, by the name of what sets them.
      prefix: prefix of the settings' names, for the message.

    Raises:
      UsageError: naming the metric, and what it lacks.
    """
    if settings.reference_images:
        counts = {**counts, f"{prefix}reference_images": settings.reference_images}
    for metric in map(metrics.make_metric, settings.metrics):
        setting = f"{prefix}metrics={metric.name}"
        if metric.needs.scores and "pixels" in settings.features:
            needs = f"needs a network's {prefix}features"
            raise UsageError(f"{setting}: {needs}, not pixels")
        for what, count in counts.items():
            if count < metric.minimum:
                needs = f"needs at least {metric.minimum} images"
                raise UsageError(f"{setting}: {needs}, not the {count} of {what}")


def open_extractors(
    settings: Evaluation, image_shape: tuple[int, int, int]
) -> list[Extractor]:
    """Returns the extractors of the configured features.

    Raises:
      WeightsError: if weights are missing or have the wrong content.
    """
    rows = -(-settings.batch_size // jax.process_count())
    return [
        extraction.make_extractor(name, image_shape, rows, settings.inception_weights)
        for name in dict.fromkeys(settings.features)
    ]


class Evaluator:
    """Evaluates models and images by every metric on every kind of features.

    Samplers are compiled, and the reference is read, once and on first use.
    """

    def __init__(
        self,
        mesh: Mesh,
        settings: Evaluation,
        extractors: Sequence[Extractor],
        reference: Reference,
        measuring_dir: Path,
    ) -> None:
        """Takes what all evaluations share.

        Args:
          mesh: the devices.
          settings: the settings.
          extractors: those of the settings.
          reference: the data; its `counting` shows the progress of all long
            computations.
          measuring_dir: directory of measurements that were interrupted.
        """
        self._measuring_dir = measuring_dir.absolute()
        self.mesh, self._settings = mesh, settings
        self.reference = self._reference = reference
        specs = [metrics.make_metric(name) for name in dict.fromkeys(settings.metrics)]
        self._pairs = list(itertools.product(extractors, specs))
        self._sampler = functools.cache(
            lambda model, *spec: make_sampler(model, mesh, *spec)
        )
        self._compiled: set[Sampler] = set()
        needs = metrics.combined_needs(specs)
        self._real = functools.cache(
            functools.partial(references.statistics, reference, needs=needs)
        )
        self._floor = functools.cache(
            functools.partial(
                references.floor, reference, num=settings.num_samples, needs=needs
            )
        )

    def evaluate(
        self,
        model: Model,
        params: Params,
        specs: Sequence[SamplerSpec],
        rows: Sequence[EvalRow],
    ) -> Iterator[Result]:
        """Yields one result per way to sample the model.

        Draws samples once for all metrics, and none if `rows` has every metric already.
        Resumes a measurement that was interrupted, and forgets it after its result has
        been taken.

        Args:
          model: the model.
          params: its parameters.
          specs: the ways to sample it.
          rows: existing rows of eval.jsonl; only those of process 0 count.
        """
        digest = checkpoint.fingerprint_of(params)[:16]
        for spec in specs:
            blank = self._blank(model, spec, digest)
            tasks = self._tasks(blank, rows)
            partial = self._partial(blank, tasks)
            yield self._evaluate(model, params, spec, tasks, partial)
            partial.remove()

    def evaluate_images(
        self, images: Reference, rows: Sequence[ImagesRow]
    ) -> list[ImagesRow]:
        """Returns the rows of the metrics that are not among `rows`.

        The first `num_samples` of the images are compared with the reference. Returns
        no rows on processes other than the first.

        Args:
          images: the images, with their path as the name.
          rows: existing rows; only those of process 0 count.
        """
        num = self._settings.num_samples
        blank = ImagesRow(
            images=images.name, content=images.content[:16], **self._common()
        )
        tasks = self._tasks(blank, rows)
        partial = self._partial(blank, tasks)
        reading = Reading(images, np.arange(num))
        partial.join("images", reading)
        found = self._compute(tasks, images.name, reading, partial)
        partial.remove()
        return found

    def _evaluate(
        self,
        model: Model,
        params: Params,
        spec: SamplerSpec,
        tasks: Sequence[_Task],
        partial: Partial,
    ) -> Result:
        if not tasks:
            return Result(spec, [], np.zeros((0, *model.image_shape), np.uint8))
        sampler = self._sampler(model, spec.sampler, spec.gamma or 0.0)
        drawing = self._drawing(model, sampler, params, spec.num_steps)
        partial.join("images", drawing)
        if drawing.done < self._settings.num_samples:
            self._compile(sampler, params, spec)
        title = f"{spec.role} {spec.sampler} N = {spec.num_steps}"
        rows = [
            dataclasses.replace(row, milliseconds=drawing.milliseconds)
            for row in self._compute(tasks, title, drawing, partial)
        ]
        return Result(spec, rows, drawing.images)

    def _tasks(self, blank: _Row, rows: Sequence[_Row]) -> list[_Task]:
        """Returns the metrics that are not among the rows."""
        tasks = [
            _Task(
                extractor,
                metric,
                [
                    dataclasses.replace(
                        blank,
                        features=extractor.label,
                        weights=extractor.digest[:16],
                        metric=extractor.metric_name(title),
                    )
                    for title in metric.titles
                ],
            )
            for extractor, metric in self._pairs
        ]
        is_done = [_is_done(task, rows) for task in tasks]
        return [
            task
            for task, done in zip(tasks, is_done, strict=True)
            if not parallel.broadcast_from_zero(done)
        ]

    def _compute(
        self,
        tasks: Sequence[_Task],
        title: str,
        images: Drawing | Reading,
        partial: Partial,
    ) -> list[Any]:
        """Returns the rows of the metrics of the images, on process 0."""
        if not tasks:
            return []
        num = self._settings.num_samples
        extractors = list(dict.fromkeys(task.extractor for task in tasks))
        needs = metrics.combined_needs([task.metric for task in tasks])
        with partial:
            with self._reference.counting(title, num - images.done) as advance:
                parts = images.parts(partial.keeping(advance))
                collected = extraction.collect(extractors, parts, num, needs, partial)
            samples = dict(zip(extractors, collected, strict=True))
            return [row for t in tasks for row in self._rows(t, samples[t.extractor])]

    def _partial(self, blank: _Row, tasks: Sequence[_Task]) -> Partial:
        """Returns the state of a measurement, by all that it depends on."""
        settings = self._settings
        key = {
            "row": blank.to_json(),
            "metrics": [[row.to_json() for row in task.blanks] for task in tasks],
            "batch_size": settings.batch_size,
            "grid_images": settings.grid_images,
        }
        return Partial(self._measuring_dir, key)

    def _rows(self, task: _Task, samples: Statistics) -> Iterator[Any]:
        """Yields the rows of a metric, on process 0."""
        real = self._real(task.extractor)
        floors = self._floor(task.extractor, task.metric)
        counting = self._reference.counting
        values = references.values_of(task.metric, samples, real, counting)
        blanks = task.blanks if values else ()
        for row, (value, details) in zip(blanks, values, strict=True):
            floor = floors.get(row.metric)
            yield dataclasses.replace(row, value=value, details=details, floor=floor)

    def _blank(self, model: Model, spec: SamplerSpec, digest: str) -> EvalRow:
        """Returns a row of the sampler without metric and value."""
        return EvalRow(
            **spec._asdict(),
            role=spec.role,
            params=digest,
            output=model.parameterization,
            precision=None if model.precision == "default" else model.precision,
            # Rows spell it without underscores, unlike cards and configurations.
            schedule=schedules.describe(model.schedule).replace("_", ""),
            class_names=self._reference.source.class_names
            if model.num_classes
            else None,
            seed=self._settings.seed,
            **self._common(),
        )

    def _common(self) -> dict[str, Any]:
        """Returns the fields that all rows have in common."""
        reference = workdir_rows.Reference(
            data=self._reference.name,
            split=self._reference.split,
            count=self._reference.num_examples,
            content=self._reference.content[:16],
        )
        return {
            "num_samples": self._settings.num_samples,
            "reference": reference,
            "metric": "",
            "value": math.nan,
        }

    def _compile(self, sampler: Sampler, params: Params, spec: SamplerSpec) -> None:
        """Compiles a sampler, once, for batches of the evaluation."""
        if sampler not in self._compiled:
            with self._reference.counting(f"compiling {spec.sampler}", 1):
                compile_sampler(sampler, params, self._settings.batch_size, self.mesh)
            self._compiled.add(sampler)

    def _drawing(
        self, model: Model, sampler: Sampler, params: Params, num_steps: int
    ) -> Drawing:
        settings = self._settings
        batches = Batches(
            sampler,
            params,
            settings.seed,
            settings.num_samples,
            num_steps,
            settings.batch_size,
            self.mesh,
        )
        return Drawing(
            batches, settings.batch_size, settings.grid_images, model.image_shape
        )


def _is_done(task: _Task, rows: Sequence[Any]) -> bool:
    return all(any(row.repeats(blank) for row in rows) for blank in task.blanks)


def line(spec: object, row: EvalRow | ImagesRow) -> str:
    """Returns a row, of a sampler or of images, as a line of output."""
    floor = f" (floor {row.floor.value:.4g})" if row.floor else ""
    return f"{spec!s:34} {row.metric} {row.value:.5g}{floor}"
