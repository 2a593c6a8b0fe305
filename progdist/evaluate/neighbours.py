"""The nearest training images of samples, by which copies of the data can be told.

A distance is the root mean square difference of the pixels, which are 0 … 255.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from progdist.data.workers import read_ahead
from progdist.evaluate.background import compute_on_zero
from progdist.evaluate.references import Reference, chosen_indices
from progdist.report.read.samples import load_samples
from progdist.workdir import files, layout

_USUAL_STEPS = 4  # shown next to the student with the fewest steps
_NUM_SAMPLES = 16  # of each student
_NUM_REAL = 256  # training images whose distance to the others is measured
_CHUNK = 1024  # training images in memory
_MOST_SEARCHED = 50_000

Chunk = tuple[Int64[np.ndarray, " _"], UInt8[np.ndarray, "_ h w c"]]


class Nearest(NamedTuple):
    """The nearest images of some queries: their indices, pixels and distances."""

    indices: Int64[np.ndarray, " n"]
    images: UInt8[np.ndarray, "n h w c"]
    distances: Float32[np.ndarray, " n"]


def write_nearest(workdir: Path, reference: Reference) -> None:
    """Writes `samples/nearest.npz`, unless it is newer than the samples.

    It holds samples of two students with their nearest training images and, for
    comparison, the distances of training images to the nearest other one. At most
    50,000 training images, spread over the data, are searched. All processes must call
    it; process 0 reads the data.
    """
    reference = reference._replace(limit=_MOST_SEARCHED)
    with reference.counting("nearest training images", 1) as advance:
        compute_on_zero(lambda: _write(workdir, reference), lambda: advance(0))


def _write(workdir: Path, reference: Reference) -> None:
    folder = workdir / layout.SAMPLES
    path, sources = folder / layout.NEAREST, list(folder.glob("phase_*.npz"))
    changed = max((p.stat().st_mtime_ns for p in sources), default=0)
    if path.exists() and path.stat().st_mtime_ns >= changed:
        return
    students = {
        s.num_steps: s.images for s in load_samples(workdir, "phase") if s.phase
    }
    shown = {n: students[n][:_NUM_SAMPLES] for n in _shown(students)}
    indices = chosen_indices(reference)
    real = np.asarray(reference.source.take(indices[:_NUM_REAL]).image)
    queries = np.concatenate([real, *shown.values()])
    own = np.full(len(queries), -1)
    own[: len(real)] = indices[:_NUM_REAL]
    nearest = find_nearest(queries, own, _chunks(reference, np.sort(indices)))
    arrays, first = {}, len(real)
    for n, samples in shown.items():
        part = slice(first, first := first + len(samples))
        arrays |= {
            f"N{n}_samples": samples,
            f"N{n}_nearest": nearest.images[part],
            f"N{n}_distances": nearest.distances[part],
        }
    files.write_npz(
        path,
        real=real[:_NUM_SAMPLES],
        real_distances=nearest.distances[: len(real)],
        num_images=np.array(len(indices)),
        **arrays,
    )


def find_nearest(
    queries: UInt8[np.ndarray, "n h w c"],
    own: Int64[np.ndarray, " n"],
    chunks: Iterable[Chunk],
) -> Nearest:
    """Returns the nearest image of each query.

    Args:
      queries: the images to compare.
      own: index of each query among the images, which does not count as its neighbour;
        -1 if it is none of them.
      chunks: indices and pixels of all images, a part at a time.
    """
    indices = np.full(len(queries), -1, np.int64)
    images = np.zeros_like(queries)
    least = np.full(len(queries), np.inf, np.float32)
    vectors = _vectors(queries)
    for numbers, candidates in chunks:
        others = _vectors(candidates)
        # |q - c|² without |q|², which is the same for all candidates.
        scores = np.square(others).sum(1) - 2 * vectors @ others.T
        scores[own[:, None] == numbers[None]] = np.inf
        best = scores.argmin(1)
        values = scores[np.arange(len(queries)), best]
        closer = values < least
        indices[closer] = numbers[best[closer]]
        images[closer] = candidates[best[closer]]
        least[closer] = values[closer]
    squares = np.square(queries.astype(np.float64) - images)
    distances = np.sqrt(squares.mean((1, 2, 3))).astype(np.float32)
    return Nearest(indices, images, distances)


def _vectors(
    images: UInt8[np.ndarray, "n h w c"],
) -> Float32[np.ndarray, "n d"]:
    # Centred, so that little is lost to rounding.
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1


def _shown(steps: Iterable[int]) -> list[int]:
    fewest = min(steps, default=0)
    return [n for n in dict.fromkeys((_USUAL_STEPS, fewest)) if n in steps]


def _chunks(reference: Reference, indices: Int64[np.ndarray, " n"]) -> Iterator[Chunk]:
    def read(start: int) -> Chunk:
        numbers = indices[start : start + _CHUNK]
        return numbers, np.asarray(reference.source.take(numbers).image)

    starts = range(0, len(indices), _CHUNK)
    yield from read_ahead(read, starts, reference.num_workers)
