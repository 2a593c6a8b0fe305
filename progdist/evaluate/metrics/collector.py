"""Statistics of a set of images for the metrics, gathered batch by batch."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from progdist.evaluate.metrics.moments import Moments, Running, ThinMoments, is_thin
from progdist.evaluate.metrics.scores import SPLITS, RunningScores

Arrays = dict[str, np.ndarray]
MAX_VECTORS = 10_000


class Needs(NamedTuple):
    """Statistics that a metric needs besides the moments.

    Attributes:
      num_vectors: number of images whose feature vectors are needed.
      scores: whether class probabilities are needed.
    """

    num_vectors: int = 0
    scores: bool = False


ALL = Needs(MAX_VECTORS, True)


class Statistics(NamedTuple):
    """Statistics of the features of `num` images.

    Attributes:
      moments: mean and covariance over all images.
      vectors: feature vectors of the first images, for metrics that need pairs.
      score: mean and standard deviation of the Inception Score; NaN without classes
        or with too few images.
    """

    num: int
    moments: Moments | ThinMoments
    vectors: Float32[np.ndarray, "k d"]
    score: tuple[float, float]


class Collector:
    """Gathers the features of images 0 … num - 1, which may come in any order.

    Memory is bounded: sums of fixed size (or all features, if they are smaller than
    those), and the vectors of the first images. (Only the split of each image, for the
    score, takes a few bytes per image.)
    """

    def __init__(
        self,
        num: int,
        num_features: int,
        num_classes: int = 0,
        needs: Needs = ALL,
    ) -> None:
        """Prepares for `num` images; with fewer than `SPLITS` there is no score."""
        self._running = Running()
        self._count = 0
        thin = is_thin(num, num_features)
        self._rows = np.zeros((num if thin else 0, num_features))
        shape = min(num, needs.num_vectors), num_features
        self._vectors = np.zeros(shape, np.float32)
        scored = needs.scores and num_classes and num >= SPLITS
        self._scores = RunningScores(num, num_classes) if scored else None

    def add(
        self,
        indices: Int[np.ndarray, " b"],
        features: Float[np.ndarray, "b d"],
        logits: Float[np.ndarray, "b k"] | None = None,
    ) -> None:
        """Adds the features, and any class scores, of the images at `indices`."""
        self._count += len(features)
        if len(self._rows):
            self._rows[indices] = features
        else:
            self._running.add(features)
        early = indices < len(self._vectors)
        self._vectors[indices[early]] = features[early]
        if logits is not None and self._scores is not None:
            self._scores.add(indices, logits)

    def state(self) -> Arrays:
        """Returns all that was gathered, bit for bit, for `restore`."""
        state = {"num": np.array(self._count), "vectors": self._vectors}
        if self._scores is not None:
            state["scores"] = self._scores.sums
        if len(self._rows):
            return state | {"rows": self._rows}
        return state | self._running.state(self._vectors.shape[1])

    def restore(self, state: Arrays) -> None:
        """Resumes from a state of a collector for the same images."""
        self._count, self._vectors = int(state["num"]), state["vectors"]
        if self._scores is not None:
            self._scores.sums = state["scores"]
        if len(self._rows):
            self._rows = state["rows"]
        else:
            self._running.restore(state)

    def sums(self) -> Arrays:
        """Returns the sums as arrays; `merge` combines those of several collectors."""
        arrays = {"count": np.array(self._count), "vectors": self._vectors}
        if len(self._rows):
            arrays["rows"] = self._rows
        else:
            width = self._vectors.shape[1]
            mean, squares = np.zeros(width), np.zeros((width, width))
            if self._count:
                mean, squares = self._running.centred()
            arrays |= {"mean": mean, "squares": squares}
        if self._scores is not None:
            arrays["scores"] = self._scores.sums
        return arrays


def merge(num: int, parts: list[Arrays]) -> Statistics:
    """Returns the statistics of `num` images from the sums of several collectors."""
    count = sum(int(part["count"]) for part in parts)
    if count != num:
        raise ValueError(f"features of {count} images, expected {num}")
    score = float("nan"), float("nan")
    if "scores" in parts[0]:
        scores = RunningScores(num, parts[0]["scores"].shape[1] - 1)
        scores.sums = np.sum([part["scores"] for part in parts], axis=0)
        score = scores.result()
    vectors = np.asarray(np.sum([part["vectors"] for part in parts], axis=0))
    return Statistics(num, _moments(parts), vectors, score)


def _moments(parts: list[Arrays]) -> Moments | ThinMoments:
    if "rows" in parts[0]:
        return ThinMoments.of(np.asarray(np.sum([part["rows"] for part in parts], 0)))
    running = Running()
    for part in parts:
        other = Running.of(int(part["count"]), part["mean"], part["squares"])
        running = running.merge(other)
    return running.result()
