"""The Inception Score (Salimans et al. 2016), gathered batch by batch."""

import numpy as np
import scipy.special
from jaxtyping import Float, Int

SPLITS, SEED = 10, 2020  # as in torch-fidelity


class RunningScores:
    """Sums of class probabilities in each split of a fixed number of images.

    An image's split depends only on the seed and its index. Within a split, mean
    KL(p_i | q) = mean sum p_i log p_i - sum q log q with q = mean p_i, so sums suffice.
    """

    def __init__(
        self, num: int, num_classes: int, splits: int = SPLITS, seed: int = SEED
    ) -> None:
        """Prepares for `num` images, at least one per split."""
        if num < splits:
            raise ValueError(f"a score in {splits} splits of {num} images")
        order = np.random.RandomState(seed).permutation(num)
        bounds = np.arange(splits + 1) * num // splits
        self._split_of = np.empty(num, int)
        self._split_of[order] = np.repeat(np.arange(splits), np.diff(bounds))
        self._counts = np.diff(bounds)
        self.sums = np.zeros((splits, num_classes + 1))  # of p, and of p log p

    def add(
        self, indices: Int[np.ndarray, " b"], logits: Float[np.ndarray, "b k"]
    ) -> None:
        """Adds the scores of the images with these indices."""
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(1, keepdims=True)
        p = np.exp(shifted)
        total = p.sum(1, keepdims=True)
        p /= total
        negentropy = np.einsum("bk,bk->b", p, shifted) - np.log(total[:, 0])
        here = self._split_of[indices] == np.arange(len(self._counts))[:, None]
        self.sums[:, :-1] += here.astype(np.float64) @ p
        self.sums[:, -1] += here @ negentropy

    def result(self) -> tuple[float, float]:
        """Returns mean and standard deviation over the splits."""
        means = self.sums / self._counts[:, None]
        q, negentropy = means[:, :-1], means[:, -1]
        scores = np.exp(negentropy - scipy.special.xlogy(q, q).sum(1))
        return float(scores.mean()), float(scores.std())
