"""Improved precision and recall (Kynkäänniemi et al. 2019)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NEIGHBOURS = 3
_BLOCK = 1024


class PrecisionRecall(NamedTuple):
    """Shares of samples that look real, and of the real that are covered."""

    precision: float
    recall: float


def precision_recall(
    samples: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    k: int = NEIGHBOURS,
) -> PrecisionRecall:
    """Returns the share of each set within the other's k-th-neighbour balls.

    Raises:
      ValueError: if a set has no k-th neighbours.
    """
    if min(len(samples), len(real)) <= k:
        raise ValueError(f"precision and recall need more than {k} features a set")
    samples, real = samples.astype(np.float64), real.astype(np.float64)
    return PrecisionRecall(_covered(samples, real, k), _covered(real, samples, k))


def _covered(
    points: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], k: int
) -> float:
    """The share of the points in a ball of a centre, up to its k-th other centre."""
    # The nearest of all is the centre itself.
    radii = np.concatenate(
        [np.partition(d, k, axis=1)[:, k] for d in _distances(centres, centres)]
    )
    inside = [(d <= radii).any(1) for d in _distances(points, centres)]
    return float(np.concatenate(inside).mean())


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yields squared distances of some rows of x at a time to all of y."""
    squares = (y * y).sum(1)
    for first in range(0, len(x), _BLOCK):
        rows = x[first : first + _BLOCK]
        yield np.maximum((rows * rows).sum(1)[:, None] + squares - 2 * rows @ y.T, 0)
