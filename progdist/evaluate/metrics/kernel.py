"""The kernel distance (KID, Binkowski et al. 2018)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # as in torch-fidelity
_BLOCK = 1024


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets of one size."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """Returns the unbiased squared MMD with the kernel (x·y / d + 1)³, over subsets.

    Subsets are drawn as in torch-fidelity, and are no larger than the smaller set. If s
    is the 0/1 vector of a subset, the sum of its part of a kernel matrix K is sᵀ K s;
    so K is computed once for all subsets, some rows at a time.

    Raises:
      ValueError: if a set has fewer than two feature vectors.
    """
    size = min(size, len(x), len(y))
    if size < 2:
        raise ValueError("a kernel distance needs at least 2 features a set")
    x, y = x.astype(np.float64), y.astype(np.float64)
    rng = np.random.RandomState(seed)
    in_x, in_y = np.zeros((len(x), subsets)), np.zeros((len(y), subsets))
    for k in range(subsets):
        in_x[rng.choice(len(x), size, replace=False), k] = 1
        in_y[rng.choice(len(y), size, replace=False), k] = 1
    within = _sums(x, x, in_x, in_x) - _diagonal(x) @ in_x
    within += _sums(y, y, in_y, in_y) - _diagonal(y) @ in_y
    across = _sums(x, y, in_x, in_y)
    distances = within / (size * (size - 1)) - 2 * across / size**2
    return KernelDistance(
        float(distances.mean()), float(distances.std()), subsets, size
    )


def _sums(
    x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray
) -> Float[np.ndarray, " subsets"]:
    total = np.zeros(in_x.shape[1])
    for first in range(0, len(x), _BLOCK):
        rows = slice(first, first + _BLOCK)
        kernel = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        total += (in_x[rows] * (kernel @ in_y)).sum(0)
    return total


def _diagonal(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    return ((x * x).sum(1) / x.shape[1] + 1) ** 3
