"""Statistics of the data, kept so that each is computed once.

In $XDG_CACHE_HOME/progdist/statistics, a file for each set of images and features. Its
name is a digest of all that the numbers depend on: the data, their split, size and
content, how many examples, the features and their weights.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int64

from progdist import data, parallel
from progdist.data.progress import Counting, counting
from progdist.data.workers import read_ahead
from progdist.evaluate import extraction, metrics
from progdist.evaluate.extraction import Extractor, Part
from progdist.workdir.files import cache_dir, write_cache

Arrays = dict[str, np.ndarray]
LIMIT = 50_000
Which = Literal["all", "one half", "other half"]
# Counts up when the same images come to other numbers.
_RULES = 2
_DAMAGED = OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error


class Reference(NamedTuple):
    """The data that samples are compared with.

    Attributes:
      source: where the images are.
      name: of the data.
      split: of the data.
      content: a digest of the images.
      batch_size: images read and looked at together, over all processes.
      num_workers: threads that read.
      counting: shows how far a long reading has come.
    """

    source: data.Source
    name: str
    split: str
    content: str
    batch_size: int
    num_workers: int
    counting: Counting = counting

    @property
    def num_examples(self) -> int:
        """How many examples are compared with: all, or LIMIT from all over them."""
        return min(len(self.source), LIMIT)


def make_reference(
    source: data.Source, split: str, batch_size: int, num_workers: int
) -> Reference:
    """Returns the reference; what is in memory is known by its content."""
    content = source.fingerprint
    if isinstance(source, data.ArraySource):
        content = _digest({"images": source.images})
    return Reference(source, source.name, split, content, batch_size, num_workers)


def statistics(
    reference: Reference,
    extractor: Extractor,
    which: Which = "all",
    num: int = 0,
    keep: int = metrics.KEPT,
) -> metrics.Statistics | None:
    """Returns the statistics of the reference, or of one of two halves of it.

    Processes other than the first get None where they are kept.

    Args:
      reference: the data.
      extractor: the features.
      which: all examples, or `num` of them: the halves have no example in common.
      num: how many a half has.
      keep: of how many the features themselves are kept.
    """
    chosen = _chosen(reference, which, num)
    title = f"{extractor.label} of {len(chosen):,} images of {reference.name}"
    needs = metrics.ALL._replace(keep=keep)

    def make() -> Arrays:
        with reference.counting(title, len(chosen)) as advance:
            parts = _parts(reference, chosen, advance)
            (found,) = extraction.collect([extractor], parts, len(chosen), needs)
        return {
            "mean": found.moments.mean,
            "covariance": found.moments.covariance,
            "kept": found.kept,
            "score": np.array(found.score),
        }

    key = _key(reference, extractor) | {"which": which, "num": len(chosen)}
    key["kept"] = keep
    arrays = cached(key, make)
    if arrays is None:
        return None
    moments = metrics.Moments(arrays["mean"], arrays["covariance"])
    mean, std = arrays["score"].tolist()
    return metrics.Statistics(len(chosen), moments, arrays["kept"], (mean, std))


def floor(
    reference: Reference,
    extractor: Extractor,
    metric: metrics.Metric,
    num: int,
    keep: int = metrics.KEPT,
) -> dict[str, dict[str, float]]:
    """Returns what real images come to: one half of the data as samples of the other.

    Each half has `count` images: `num`, or as many as there are. Between images of one
    kind the Fréchet distance is in proportion to 1/n + 1/m (its bias; Chong & Forsyth
    2020), so what was `measured` between the halves also says what it would be for
    `num` samples against the whole reference: that is its `value`.

    Returns:
      By the name of each number; nothing where the data are too few, nor on processes
      other than the first.
    """
    count = min(num, len(reference.source) // 2)
    if count < metrics.least(metric):
        return {}

    def make() -> Arrays:
        one = statistics(reference, extractor, "one half", count, keep)
        other = statistics(reference, extractor, "other half", count, keep)
        if not (one and other) or jax.process_index():
            return {}
        found = metrics.measure(metric, extractor.label, one, other)
        return {name: np.array(number["value"]) for name, number in found.items()}

    key = _key(reference, extractor) | {"metric": metric, "num": count}
    values = {name: float(v) for name, v in (cached(key, make) or {}).items()}
    if metric != "fd":
        return {name: {"value": v, "count": count} for name, v in values.items()}
    share = (1 / num + 1 / reference.num_examples) / (2 / count)
    return {
        name: {"value": share * v, "measured": v, "count": count}
        for name, v in values.items()
    }


def cached(key: dict[str, Any], make: Callable[[], Arrays]) -> Arrays | None:
    """Returns the arrays kept under a key; made, and kept, where there are none.

    Process 0 alone looks and keeps, and all of them make; where there is nothing to
    make, the others get None.
    """
    path, text = path_of(key), json.dumps(key, sort_keys=True)
    found = _load(path, text) if jax.process_index() == 0 else None
    if parallel.broadcast_from_zero(found is not None):
        return found
    arrays = make()
    if jax.process_index() == 0:
        notes = {"key": np.array(text), "digest": np.array(_digest(arrays))}
        write_cache(path, arrays | notes, "not kept")
    return arrays


def path_of(key: dict[str, Any]) -> Path:
    """Where the arrays of a key are kept."""
    text = json.dumps(key, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_dir() / "statistics" / f"{name}.npz"


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


def _chosen(reference: Reference, which: Which, num: int) -> Int64[np.ndarray, " n"]:
    """The examples, mixed: those that are kept come first, and are of all kinds."""
    length = len(reference.source)
    if which == "all":
        chosen = data.spread_indices(length, reference.num_examples)
    else:
        chosen = data.spread_indices(length, 2 * num)[which == "other half" :: 2]
    return np.random.default_rng(0).permutation(chosen)


def _parts(
    reference: Reference,
    chosen: Int64[np.ndarray, " n"],
    advance: Callable[[int], None],
) -> Iterator[Part]:
    """Yields this process's share of the examples, equally often on all processes."""
    processes = jax.process_count()
    here = np.arange(jax.process_index(), len(chosen), processes)
    size = -(-reference.batch_size // processes)
    starts = range(0, -(-len(chosen) // processes), size)

    def read(start: int) -> Part:
        numbers = here[start : start + size]
        return numbers, np.asarray(reference.source.take(chosen[numbers]).image)

    for numbers, images in read_ahead(read, starts, reference.num_workers):
        yield numbers, images
        advance(len(images) * processes)


def _load(path: Path, key: str) -> Arrays | None:
    """What `cached` has kept; nothing where it is damaged, or of something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        of, digest = str(arrays.pop("key")), str(arrays.pop("digest"))
    except _DAMAGED:
        return None
    return arrays if of == key and digest == _digest(arrays) else None


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
