"""How a model's samples are measured: images to the rows of eval.jsonl.

A row says all that its value depends on, and what real images would come to, so that
rows of different runs and commands can be compared, and none is computed twice.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from progdist import checkpoint, parallel
from progdist.diffusion.settings import SolverName
from progdist.evaluate import extraction, metrics, references, sampling
from progdist.evaluate.extraction import Extractor
from progdist.evaluate.references import Reference
from progdist.evaluate.sampling import make_sampler
from progdist.model import Model, Params
from progdist.workdir.rows import EvalRow, Floor, Reference as Compared

Number = tuple[Extractor, metrics.Metric]
Floors = dict[str, dict[str, Any]]
Images = UInt8[np.ndarray, "b h w c"]


class Drawing(NamedTuple):
    """One way to draw: the model of a phase, its own steps, and how it is sampled."""

    phase: int
    trained_steps: int
    num_steps: int
    sampler: SolverName
    gamma: float | None = None  # of the ancestral sampler alone

    def facts(self) -> dict[str, Any]:
        """Returns the fields of its rows."""
        return {
            "phase": self.phase,
            "role": "student" if self.phase else "teacher",
            "sampler": self.sampler,
            "num_steps": self.num_steps,
            "trained_steps": self.trained_steps,
            "gamma": self.gamma,
        }

    def __str__(self) -> str:
        """As a line of output shows it."""
        row = self.facts()
        gamma = "" if self.gamma is None else f" gamma {self.gamma:g}"
        return f"{row['role']} {self.sampler}{gamma} N = {self.num_steps}"


class Samples(NamedTuple):
    """How many images, from which seed, how many at a time."""

    num: int
    seed: int
    batch_size: int


class Identified(NamedTuple):
    """A model's parameters, and the digest that tells its rows from another's."""

    params: Params
    digest: str


class Gauge(NamedTuple):
    """What models are measured with; see `make_gauge`."""

    model: Model
    mesh: Mesh
    samples: Samples
    numbers: Sequence[Number]
    reference: Reference
    make_sampler: Callable[[SolverName, float], sampling.Sampler]
    real: Callable[[Extractor], metrics.Statistics | None]
    floor: Callable[[Extractor, metrics.Metric], Floors]


def make_gauge(
    model: Model,
    mesh: Mesh,
    samples: Samples,
    extractors: Sequence[Extractor],
    wanted: Sequence[metrics.Metric],
    reference: Reference,
) -> Gauge:
    """Returns what measures all wanted metrics of all features of a model's samples.

    Samplers are compiled, and the reference is read, on first use and once.
    """
    pairs = metrics.needs(wanted).keep

    def keep(extractor: Extractor) -> int:
        # A network's features cost too much to be computed again for another metric.
        return pairs if extractor.name == "pixels" else metrics.KEPT

    def real(extractor: Extractor) -> metrics.Statistics | None:
        return references.statistics(reference, extractor, keep=keep(extractor))

    def floor(extractor: Extractor, metric: metrics.Metric) -> Floors:
        num = samples.num
        return references.floor(reference, extractor, metric, num, keep(extractor))

    return Gauge(
        model,
        mesh,
        samples,
        list(itertools.product(extractors, wanted)),
        reference,
        functools.cache(functools.partial(make_sampler, model, mesh)),
        functools.cache(real),
        functools.cache(floor),
    )


def identified(params: Params) -> Identified:
    """Returns the parameters with their digest, which reads all of them."""
    return Identified(params, checkpoint.fingerprint_of(params)[:16])


def missing(
    gauge: Gauge, one: Drawing, model: Identified, rows: Sequence[EvalRow]
) -> list[Number]:
    """Returns the numbers of the gauge that the rows do not have, as process 0 says."""
    return [
        number
        for number in gauge.numbers
        if not parallel.broadcast_from_zero(_is_there(gauge, one, model, number, rows))
    ]


def measure(
    gauge: Gauge,
    one: Drawing,
    model: Identified,
    numbers: Sequence[Number],
    watch: Callable[[Images], None] = lambda images: None,
) -> list[EvalRow]:
    """Draws once, and returns the rows of all the numbers; on process 0, the others [].

    Args:
      gauge: what to measure with.
      one: how to draw.
      model: whose samples.
      numbers: of the gauge's.
      watch: called with every batch of images, on every process.
    """
    extractors = list({e.label: e for e, _ in numbers}.values())
    needs = metrics.needs([metric for _, metric in numbers])
    parts = _draw(gauge, one, model.params, watch)
    found = extraction.collect(extractors, parts, gauge.samples.num, needs)
    ours = dict(zip([e.label for e in extractors], found, strict=True))
    rows = (_rows(gauge, one, model, n, ours[n[0].label]) for n in numbers)
    return list(itertools.chain.from_iterable(rows))


def _rows(
    gauge: Gauge,
    one: Drawing,
    model: Identified,
    number: Number,
    ours: metrics.Statistics,
) -> list[EvalRow]:
    extractor, metric = number
    real, floors = gauge.real(extractor), gauge.floor(extractor, metric)
    if jax.process_index() or real is None:
        return []
    return [
        dataclasses.replace(
            _unmeasured(gauge, one, model, extractor, name),
            value=details.pop("value"),
            details=details,
            floor=Floor(**floors[name]) if name in floors else None,
        )
        for name, details in metrics.measure(
            metric, extractor.label, ours, real
        ).items()
    ]


def _unmeasured(
    gauge: Gauge, one: Drawing, model: Identified, extractor: Extractor, name: str
) -> EvalRow:
    """All that a value depends on: a row whose value is NaN."""
    reference = gauge.reference
    return EvalRow(
        **one.facts(),
        params=model.digest,
        output=gauge.model.parameterization,
        schedule=type(gauge.model.schedule).__name__.lower(),
        num_samples=gauge.samples.num,
        seed=gauge.samples.seed,
        features=extractor.label,
        weights=extractor.digest[:16],
        reference=Compared(
            data=reference.name,
            split=reference.split,
            count=reference.num_examples,
            content=reference.content[:16],
        ),
        metric=name,
        value=math.nan,
    )


def _is_there(
    gauge: Gauge,
    one: Drawing,
    model: Identified,
    number: Number,
    rows: Sequence[EvalRow],
) -> bool:
    extractor, metric = number
    wanted = [
        _unmeasured(gauge, one, model, extractor, name)
        for name in metrics.names(metric, extractor.label)
    ]
    return all(any(row.repeats(new) for row in rows) for new in wanted)


def _draw(
    gauge: Gauge, one: Drawing, params: Params, watch: Callable[[Images], None]
) -> Iterator[extraction.Part]:
    """Yields this process's rows of every batch."""
    num, seed, batch_size = gauge.samples
    sampler = gauge.make_sampler(one.sampler, one.gamma or 0.0)
    batches = sampling.draw_images(
        sampler, params, seed, num, one.num_steps, batch_size, gauge.mesh
    )
    rows, first = parallel.local_rows(batch_size), 0
    for images in batches:
        watch(images)
        numbers = range(first, first + len(images))[rows]
        yield np.asarray(numbers, int), images[rows]
        first += len(images)
