"""Statistics and floors of the real data, cached so that each is computed once.

$XDG_CACHE_HOME/progdist/statistics holds a file for each set of images and features.
Its key has everything the numbers depend on: name, split, size and content of the data,
number of examples, features and weights.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int64

from progdist import data, parallel
from progdist.data.progress import Counting, counting
from progdist.data.workers import read_ahead
from progdist.evaluate import extraction, metrics
from progdist.evaluate.background import compute_on_zero
from progdist.evaluate.extraction import Extractor, Part
from progdist.evaluate.metrics import MAX_VECTORS
from progdist.evaluate.partial import Partial
from progdist.workdir import array_cache
from progdist.workdir.array_cache import Arrays
from progdist.workdir.rows import Floor

CACHE = "statistics"
Which = Literal["all", "one half", "other half"]
# Version of the computation; incremented when its results change.
_RULES = 2


class Reference(NamedTuple):
    """Real data that samples are compared with.

    Attributes:
      source: the images.
      name: name of the data.
      split: split of the data.
      content: digest of the images.
      limit: number of images of the data to use; 0 for all.
      batch_size: images read and processed together, over all processes.
      num_workers: number of reading threads.
      counting: shows the progress of a long computation.
    """

    source: data.Source
    name: str
    split: str
    content: str
    limit: int
    batch_size: int
    num_workers: int
    counting: Counting = counting

    @property
    def num_examples(self) -> int:
        """Number of examples used: all, or `limit` of them spread over the data."""
        return min(len(self.source), self.limit or len(self.source))


def make_reference(
    source: data.Source,
    split: str,
    batch_size: int,
    num_workers: int,
    limit: int = 0,
) -> Reference:
    """Returns the reference; images in memory are known by their pixels alone."""
    content = source.fingerprint
    if isinstance(source, data.ArraySource):
        content = array_cache.digest_of({"images": source.images})
    return Reference(
        source, source.name, split, content, limit, batch_size, num_workers
    )


def statistics(
    reference: Reference,
    extractor: Extractor,
    which: Which = "all",
    num: int = 0,
    needs: metrics.Needs = metrics.ALL,
) -> metrics.Statistics | None:
    """Returns the statistics of the reference, or of one of two disjoint halves.

    Processes other than the first get None if the cache has them.

    Args:
      reference: the data.
      extractor: the features.
      which: all examples, or one of the halves.
      num: number of examples in a half.
      needs: statistics that the metrics need.
    """
    indices = chosen_indices(reference, which, num)
    title = f"{extractor.label} of {len(indices):,} images of {reference.name}"
    # Features of a network are too expensive to compute again for another metric.
    num_vectors = needs.num_vectors if extractor.name == "pixels" else MAX_VECTORS
    needs = metrics.Needs(num_vectors, scores=True)

    def make() -> Arrays:
        reading = Reading(reference, indices)
        with partial:
            partial.join("reading", reading)
            with reference.counting(title, len(indices) - reading.done) as advance:
                parts = reading.parts(partial.keeping(advance))
                (result,) = extraction.collect(
                    [extractor], parts, len(indices), needs, partial
                )
        names = [field.name for field in dataclasses.fields(result.moments)]
        return {
            **{name: getattr(result.moments, name) for name in names},
            "kept": result.vectors,
            "score": np.array(result.score),
        }

    key = _key(reference, extractor) | {"which": which, "num": len(indices)}
    key |= {"kept": num_vectors}
    partial = Partial(CACHE, key | {"batch_size": reference.batch_size})
    arrays = cached(key, make)
    partial.remove()
    if arrays is None:
        return None
    mean, std = arrays["score"].tolist()
    return metrics.Statistics(
        len(indices), _moments(arrays), arrays["kept"], (mean, std)
    )


def floor(
    reference: Reference,
    extractor: Extractor,
    metric: metrics.MetricSpec,
    num: int,
    needs: metrics.Needs = metrics.ALL,
) -> dict[str, Floor]:
    """Returns the floor: the same metric between two disjoint halves of the real data.

    Each half has `count` images: `num`, or half of the data if that is fewer. Between
    sets from one distribution the Fréchet distance is proportional to 1/n + 1/m (its
    bias; Chong & Forsyth 2020). The distance `measured` between the halves therefore
    predicts the distance from `num` real images to the whole reference, the `value`.

    Returns:
      The floors by metric name; empty if there are too few images, and on all
      processes but the first.
    """
    count = min(num, len(reference.source) // 2)
    if count < metric.minimum:
        return {}

    def make() -> Arrays:
        one = statistics(reference, extractor, "one half", count, needs)
        other = statistics(reference, extractor, "other half", count, needs)
        values = values_of(metric, one, other, reference.counting)
        titles = metric.titles if values else ()
        return {
            extractor.metric_name(title): np.array(value)
            for title, (value, _) in zip(titles, values, strict=True)
        }

    key = _key(reference, extractor) | {"metric": metric.name, "num": count}
    values = {name: float(v) for name, v in (cached(key, make) or {}).items()}
    if metric.name != "fd":
        return {name: Floor(value=v, count=count) for name, v in values.items()}
    share = (1 / num + 1 / reference.num_examples) / (2 / count)
    return {
        name: Floor(value=share * v, measured=v, count=count)
        for name, v in values.items()
    }


def values_of(
    metric: metrics.MetricSpec,
    samples: metrics.Statistics | None,
    real: metrics.Statistics | None,
    counting: Counting,
) -> list[metrics.Value]:
    """Returns the values of a metric on process 0, none on the others.

    Takes up to a minute, during which `counting` is told every fifth of a second, on
    all processes, that nothing more is completed.
    """

    def compute() -> list[metrics.Value]:
        return metric.values(samples, real) if samples and real else []

    with counting(f"{metric.name} of the features", 1) as advance:
        return compute_on_zero(compute, lambda: advance(0)) or []


def cached(key: array_cache.Key, make: Callable[[], Arrays]) -> Arrays | None:
    """Returns the cached arrays of a key; computes and stores them if missing.

    Only process 0 reads and writes the cache, but all processes compute. The others
    get None on a hit.
    """
    first = jax.process_index() == 0
    stored = array_cache.load(CACHE, key) if first else None
    if parallel.broadcast_from_zero(stored is not None):
        return stored
    arrays = make()
    if first:
        array_cache.save(CACHE, key, arrays, "not kept")
    return arrays


def chosen_indices(
    reference: Reference, which: Which = "all", num: int = 0
) -> Int64[np.ndarray, " n"]:
    """Returns the shuffled indices of examples, so that the first ones are mixed."""
    length = len(reference.source)
    if which == "all":
        indices = data.spread_indices(length, reference.num_examples)
    else:
        indices = data.spread_indices(length, 2 * num)[which == "other half" :: 2]
    return np.random.default_rng(0).permutation(indices)


def _moments(arrays: Arrays) -> metrics.Moments | metrics.ThinMoments:
    if "root" in arrays:
        return metrics.ThinMoments(arrays["mean"], arrays["root"])
    return metrics.Moments(arrays["mean"], arrays["covariance"])


def _key(reference: Reference, extractor: Extractor) -> dict[str, Any]:
    return {
        "rules": _RULES,
        "data": reference.name,
        "split": reference.split,
        "shape": reference.source.image_shape,
        "length": len(reference.source),
        "content": reference.content,
        "features": extractor.label,
        "weights": extractor.digest,
    }


class Reading:
    """A set of images, read in equally many batches on all processes."""

    def __init__(self, reference: Reference, indices: Int64[np.ndarray, " n"]) -> None:
        """Takes the data, and the indices of the examples to read."""
        self._reference, self._indices = reference, indices
        self._start = 0  # of the next batch, on each process

    @property
    def done(self) -> int:
        """Number of images read, on all processes."""
        return min(self._start * jax.process_count(), len(self._indices))

    def parts(self, advance: Callable[[int], None]) -> Iterator[Part]:
        """Yields this process's share of each batch that is not done."""
        reference, processes = self._reference, jax.process_count()
        here = np.arange(jax.process_index(), len(self._indices), processes)
        size = -(-reference.batch_size // processes)
        starts = range(self._start, -(-len(self._indices) // processes), size)

        def read(start: int) -> Part:
            numbers = here[start : start + size]
            images = reference.source.take(self._indices[numbers]).image
            return numbers, np.asarray(images)

        for numbers, images in read_ahead(read, starts, reference.num_workers):
            yield numbers, images
            self._start += size
            advance(len(images) * processes)

    def state(self) -> Arrays:
        """Returns what is done."""
        return {"start": np.array(self._start)}

    def restore(self, state: Arrays) -> None:
        """Resumes from a state."""
        self._start = int(state["start"])
