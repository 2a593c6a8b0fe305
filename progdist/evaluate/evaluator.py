"""Evaluates models by metrics of their samples: images to the rows of eval.jsonl.

A row holds everything its value depends on, and a floor: the same metric between two
disjoint halves of the real data. Rows of different runs and commands can therefore be
compared, and none is computed twice.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from progdist import checkpoint, parallel
from progdist.config import Evaluation
from progdist.diffusion import schedules
from progdist.evaluate import extraction, metrics, references, sampling
from progdist.evaluate.extraction import Extractor
from progdist.evaluate.metrics import MetricSpec, Statistics
from progdist.evaluate.references import Reference
from progdist.evaluate.specs import SamplerSpec
from progdist.model import Model, Params
from progdist.workdir import rows as workdir_rows
from progdist.workdir.rows import EvalRow


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
    blanks: list[EvalRow]


class Evaluator:
    """Evaluates models by every metric on every kind of features.

    Samplers are compiled, and the reference is read, once and on first use.
    """

    def __init__(
        self,
        mesh: Mesh,
        settings: Evaluation,
        extractors: Sequence[Extractor],
        metric_specs: Sequence[MetricSpec],
        reference: Reference,
    ) -> None:
        """Takes the settings that all evaluations share."""
        self.mesh, self._settings = mesh, settings
        self._reference = reference
        self._pairs = list(itertools.product(extractors, metric_specs))
        self._sampler = functools.cache(
            lambda model, *spec: sampling.make_sampler(model, mesh, *spec)
        )
        needs = metrics.combined_needs(metric_specs)
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

        Args:
          model: the model.
          params: its parameters.
          specs: the ways to sample it.
          rows: existing rows of eval.jsonl; only those of process 0 count.
        """
        digest = checkpoint.fingerprint_of(params)[:16]
        for spec in specs:
            tasks = [
                _Task(*pair, self._blanks(model, spec, digest, *pair))
                for pair in self._pairs
            ]
            missing = [
                task
                for task in tasks
                if not parallel.broadcast_from_zero(_is_done(task, rows))
            ]
            yield self._evaluate(model, params, spec, missing)

    def _evaluate(
        self, model: Model, params: Params, spec: SamplerSpec, tasks: Sequence[_Task]
    ) -> Result:
        images = [np.zeros((0, *model.image_shape), np.uint8)]
        if not tasks:
            return Result(spec, [], images[0])
        num = self._settings.num_samples
        extractors = list(dict.fromkeys(task.extractor for task in tasks))
        needs = metrics.combined_needs([task.metric for task in tasks])
        with self._reference.counting(str(spec), num) as advance:
            parts = self._draw(model, params, spec, images, advance)
            statistics = extraction.collect(extractors, parts, num, needs)
        samples = dict(zip(extractors, statistics, strict=True))
        rows = [row for t in tasks for row in self._rows(t, samples[t.extractor])]
        return Result(spec, rows, np.concatenate(images))

    def _rows(self, task: _Task, samples: Statistics) -> Iterator[EvalRow]:
        """Yields the rows of a metric, on process 0."""
        real = self._real(task.extractor)
        floors = self._floor(task.extractor, task.metric)
        counting = self._reference.counting
        values = references.values_of(task.metric, samples, real, counting)
        blanks = task.blanks if values else ()
        for row, (value, details) in zip(blanks, values, strict=True):
            floor = floors.get(row.metric)
            yield dataclasses.replace(row, value=value, details=details, floor=floor)

    def _blanks(
        self,
        model: Model,
        spec: SamplerSpec,
        digest: str,
        extractor: Extractor,
        metric: MetricSpec,
    ) -> list[EvalRow]:
        """Returns the rows of a metric, with NaN in place of the values."""
        settings, reference = self._settings, self._reference
        row = EvalRow(
            **spec._asdict(),
            role=spec.role,
            params=digest,
            output=model.parameterization,
            # Rows spell it without underscores, unlike cards and configurations.
            schedule=schedules.describe(model.schedule).replace("_", ""),
            num_samples=settings.num_samples,
            seed=settings.seed,
            features=extractor.label,
            weights=extractor.digest[:16],
            reference=workdir_rows.Reference(
                data=reference.name,
                split=reference.split,
                count=reference.num_examples,
                content=reference.content[:16],
            ),
            metric="",
            value=math.nan,
        )
        names = map(extractor.metric_name, metric.titles)
        return [dataclasses.replace(row, metric=name) for name in names]

    def _draw(
        self,
        model: Model,
        params: Params,
        spec: SamplerSpec,
        images: list[UInt8[np.ndarray, "b h w c"]],
        advance: Callable[[int], None],
    ) -> Iterator[extraction.Part]:
        """Yields this process's share of each batch; adds the first to `images`."""
        settings, first = self._settings, 0
        rows = parallel.local_rows(settings.batch_size)
        for batch in sampling.draw_images(
            self._sampler(model, spec.sampler, spec.gamma or 0.0),
            params,
            settings.seed,
            settings.num_samples,
            spec.num_steps,
            settings.batch_size,
            self.mesh,
        ):
            advance(len(batch))
            if first < settings.grid_images:
                images.append(batch[: settings.grid_images - first])
            yield np.arange(first, first + len(batch))[rows], batch[rows]
            first += len(batch)


def _is_done(task: _Task, rows: Sequence[EvalRow]) -> bool:
    return all(any(row.repeats(blank) for row in rows) for blank in task.blanks)


def line(spec: SamplerSpec, row: EvalRow) -> str:
    """Returns a row as a line of output."""
    floor = f" (floor {row.floor.value:.4g})" if row.floor else ""
    return f"{spec!s:34} {row.metric} {row.value:.5g}{floor}"
