"""Batches of images in [-1, 1], each a pure function of (seed, step)."""

import contextlib
import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from progdist.data import order
from progdist.data.progress import counting
from progdist.data.source import ArraySource, Batch, Source
from progdist.data.workers import read_ahead

PIECE, CHUNK = 32, 256


def from_uint8(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Maps 0..255 to [-1, 1]: u / 127.5 - 1, with both ends exact."""
    # Not u * (1 / 127.5) - 1, whose rounding exceeds 1 at u = 255.
    scaled = np.divide(image, np.float32(127.5), dtype=np.float32)
    return np.subtract(scaled, np.float32(1), out=scaled)


def to_uint8(x: Float[Any, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Maps [-1, 1] to 0..255: round((x + 1) 127.5), clipped. Inverts `from_uint8`."""
    levels = np.rint((np.asarray(x, np.float32) + 1) * np.float32(127.5))
    return np.clip(levels, 0, 255).astype(np.uint8)


def batch_at(
    source: Source,
    seed: int,
    step: int,
    batch_size: int,
    flip: bool,
    rows: slice = slice(None),
) -> Batch:
    """Returns the batch of a training step, or some of its rows.

    Args:
      source: the images.
      seed: determines the order of every epoch and the flips; at least 0.
      step: index of the step in the whole run, from 0.
      batch_size: size of the global batch, over all processes.
      flip: whether to mirror a random half of the images left to right.
      rows: rows of the global batch to load.

    Returns:
      Images float32 in [-1, 1] and labels int32.
    """
    positions = order.positions_at(step, batch_size, rows)
    image, label = source.take(order.examples_at(seed, positions, len(source)))
    if flip:
        mirror = order.flips_at(seed, positions)
        image[mirror] = image[mirror, :, ::-1]
    return Batch(from_uint8(image), label)


def batches(
    source: Source,
    seed: int,
    start: int,
    stop: int,
    batch_size: int,
    flip: bool,
    rows: slice = slice(None),
    num_workers: int = 8,
) -> Generator[Batch, None, None]:
    """Yields `batch_at` for each step in [start, stop).

    A source in memory is read on demand, which is faster than passing batches between
    threads. For any other, threads read about two batches ahead, a few rows at a time,
    so that the first batch comes soon and closing the generator is quick.
    """
    if isinstance(source, ArraySource):
        for step in range(start, stop):
            yield batch_at(source, seed, step, batch_size, flip, rows)
        return
    pieces = _pieces(range(batch_size)[rows])

    def read(item: tuple[int, slice]) -> Batch:
        step, piece = item
        return batch_at(source, seed, step, batch_size, flip, piece)

    items = itertools.product(range(start, stop), pieces)
    num_ahead = num_workers + 2 * len(pieces)
    with contextlib.closing(read_ahead(read, items, num_workers, num_ahead)) as parts:
        for _ in range(start, stop):
            yield _join(list(itertools.islice(parts, len(pieces))))


def spread_indices(length: int, count: int) -> Int64[np.ndarray, " count"]:
    """Returns `count` evenly spaced, ascending indices from 0 … length - 1."""
    return np.arange(count, dtype=np.int64) * length // count


def in_memory(source: Source, num_workers: int = 8) -> ArraySource:
    """Returns a source that holds all examples in memory."""
    if isinstance(source, ArraySource):
        return source
    image = np.empty((len(source), *source.image_shape), np.uint8)
    label = np.empty(len(source), np.int32)

    def read(start: int) -> int:
        indices = np.arange(start, min(start + CHUNK, len(source)), dtype=np.int64)
        image[indices], label[indices] = source.take(indices)
        return len(indices)

    starts = range(0, len(source), CHUNK)
    with counting(f"reading {source.name}", len(source)) as advance:
        for count in read_ahead(read, starts, num_workers):
            advance(count)
    return ArraySource(
        source.name, image, label, source.class_names, source.fingerprint
    )


def _pieces(rows: range) -> list[slice]:
    """Splits the rows into small slices."""
    parts = (rows[i : i + PIECE] for i in range(0, len(rows), PIECE))
    return [slice(part.start, part.stop, part.step) for part in parts]


def _join(parts: list[Batch]) -> Batch:
    image, label = zip(*parts, strict=True)
    return Batch(np.concatenate(image), np.concatenate(label))
