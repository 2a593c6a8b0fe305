"""From a source to batches in [-1, 1], each a pure function of (seed, step)."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from progdist.data import order
from progdist.data.source import ArraySource, Batch, Source


def from_uint8(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Maps 0..255 to [-1, 1]: u / 127.5 - 1, with both ends exact."""
    # Not u * (1 / 127.5) - 1: that leaves the range by one rounding at u = 255.
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
    """The batch of a training step, or the rows of it that this process needs.

    Args:
      source: where the images are.
      seed: fixes the order of every epoch and the flips; not negative.
      step: number of the step over the whole run, from 0.
      batch_size: size of the global batch, over all processes.
      flip: whether to mirror a random half of the images left to right.
      rows: which rows of the global batch to load.

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
    num_threads: int = 8,
) -> Iterator[Batch]:
    """Yields `batch_at` for each step in [start, stop).

    A source in memory is read when asked, faster than threads hand batches over; for
    any other, `num_threads` batches are read ahead.
    """

    def read(step: int) -> Batch:
        return batch_at(source, seed, step, batch_size, flip, rows)

    steps = range(start, stop)
    if isinstance(source, ArraySource):
        return map(read, steps)
    return read_ahead(read, steps, num_threads)


def read_ahead(
    read: Callable[[int], Batch], steps: Iterable[int], num_threads: int
) -> Iterator[Batch]:
    """Yields read(step) in order while threads work on the next `num_threads`."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[Batch]] = deque()
        for step in steps:
            pending.append(pool.submit(read, step))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
