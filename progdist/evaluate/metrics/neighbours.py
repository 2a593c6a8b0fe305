"""Improved precision and recall (Kynkäänniemi et al. 2019)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

NEIGHBOURS = 3
_BLOCK = 1024


class PrecisionRecall(NamedTuple):
    """Shares of samples that look real, and of real images that samples cover."""

    precision: float
    recall: float


def precision_recall(
    samples: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "m d"],
    k: int = NEIGHBOURS,
) -> PrecisionRecall:
    """Returns the share of each set within balls around the features of the other.

    The radius of a ball is the distance to the k-th nearest feature of its own set.

    Raises:
      ValueError: if a set has k features or fewer.
    """
    if min(len(samples), len(real)) <= k:
        raise ValueError(f"precision and recall need more than {k} features a set")
    samples, real = samples.astype(np.float64), real.astype(np.float64)
    of_samples, of_real = _radii(samples, k), _radii(real, k)
    precise, recalled, first = [], np.zeros(len(real), bool), 0
    for d in _distances(samples, real):
        precise.append((d <= of_real).any(1))
        recalled |= (d <= of_samples[first : first + len(d), None]).any(0)
        first += len(d)
    return PrecisionRecall(
        float(np.concatenate(precise).mean()), float(recalled.mean())
    )


def _radii(centres: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, " n"]:
    """Returns squared distances to the k-th other centre."""
    # The nearest centre is the centre itself.
    return np.concatenate(
        [np.partition(d, k, axis=1)[:, k] for d in _distances(centres, centres)]
    )


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yields squared distances between x, some rows at a time, and all of y."""
    squares = (y * y).sum(1)
    for first in range(0, len(x), _BLOCK):
        rows = x[first : first + _BLOCK]
        yield np.maximum((rows * rows).sum(1)[:, None] + squares - 2 * rows @ y.T, 0)
