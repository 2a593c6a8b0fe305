"""Order of the examples, as pure functions of (seed, position).

Training reads an endless sequence: epoch 0 in one random order, epoch 1 in another,
and so on; `position` counts through it. Step k with batch size b reads positions k b to
k b + b - 1, so the order depends neither on where a run was resumed nor on the number
of hosts.

Random bits come from SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014), read as a function of a counter. The streams of
numpy's `Generator` may change between releases; a run must not change with them.
"""

import functools
import threading
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, UInt64

Purpose = Literal["order", "flip"]
_PURPOSES: tuple[Purpose, ...] = ("order", "flip")


def splitmix64(
    state: np.uint64, counter: Int64[np.ndarray, " k"]
) -> UInt64[np.ndarray, " k"]:
    """Returns outputs `counter`, counted from 0, of SplitMix64 started at `state`."""
    z = (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z += state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def stream(seed: int, purpose: Purpose, number: int = 0) -> np.uint64:
    """Returns the initial state of the random bits for (seed, purpose, number)."""
    words = [seed, _PURPOSES.index(purpose), number]
    return np.random.SeedSequence(words).generate_state(1, np.uint64)[0]


# When several threads reach a new epoch, one sorts and the others wait for it.
_sorting = threading.Lock()


def permutation(seed: int, epoch: int, num_examples: int) -> Int64[np.ndarray, " n"]:
    """Returns a random order of 0..num_examples-1 for an epoch; read-only."""
    with _sorting:
        return _permutation(seed, epoch, num_examples)


# The steps of an epoch share its permutation. A batch can span two epochs, and threads
# that read ahead the next two.
@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_examples: int) -> Int64[np.ndarray, " n"]:
    counter = np.arange(num_examples, dtype=np.int64)
    bits = splitmix64(stream(seed, "order", epoch), counter)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def positions_at(
    step: int, batch_size: int, rows: slice = slice(None)
) -> Int64[np.ndarray, " k"]:
    """Returns the positions of the given rows of a step's global batch."""
    start = step * batch_size
    return np.arange(start, start + batch_size, dtype=np.int64)[rows]


def examples_at(
    seed: int, positions: Int64[np.ndarray, " k"], num_examples: int
) -> Int64[np.ndarray, " k"]:
    """Returns the indices of the examples at `positions` of the endless sequence."""
    epochs, offsets = np.divmod(positions, num_examples)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        order = permutation(seed, int(epoch), num_examples)
        indices[here] = order[offsets[here]]
    return indices


def flips_at(seed: int, positions: Int64[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Returns whether to mirror the image at each position, with probability 1/2."""
    bits = splitmix64(stream(seed, "flip"), positions)
    return (bits >> np.uint64(63)).astype(bool)
