"""What the distances need of a set of images, gathered batch by batch."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from progdist.evaluate.metrics.moments import Moments, Running
from progdist.evaluate.metrics.scores import SPLITS, RunningScores

Arrays = dict[str, np.ndarray]
KEPT = 10_000


class Needs(NamedTuple):
    """What metrics need besides the moments.

    Attributes:
      keep: of how many images the features themselves.
      scores: whether the classes' probabilities.
    """

    keep: int
    scores: bool


ALL = Needs(KEPT, True)


class Statistics(NamedTuple):
    """Of the features of `num` images.

    Attributes:
      moments: of all of them.
      kept: the first ones themselves, for the distances that need pairs.
      score: mean and deviation of the Inception Score; NaN without classes, or
        of too few images.
    """

    num: int
    moments: Moments
    kept: Float32[np.ndarray, "k d"]
    score: tuple[float, float]


class Collector:
    """Gathers the features of images 0 … num - 1, which may come in any order.

    Memory is bounded: sums of fixed size, and the features of the first images. (The
    score's split of each image takes a few bytes more.)
    """

    def __init__(
        self,
        num: int,
        num_features: int,
        num_classes: int = 0,
        needs: Needs = ALL,
    ) -> None:
        """Nothing seen yet of `num` images; too few of them have no score."""
        self._running = Running()
        self._kept = np.zeros((min(num, needs.keep), num_features), np.float32)
        scored = needs.scores and num_classes and num >= SPLITS
        self._scores = RunningScores(num, num_classes) if scored else None

    def add(
        self,
        indices: Int[np.ndarray, " b"],
        features: Float[np.ndarray, "b d"],
        logits: Float[np.ndarray, "b k"] | None = None,
    ) -> None:
        """Adds the features, and the scores where there are any, of these images."""
        self._running.add(features)
        early = indices < len(self._kept)
        self._kept[indices[early]] = features[early]
        if logits is not None and self._scores is not None:
            self._scores.add(indices, logits)

    def sums(self) -> Arrays:
        """Returns the sums as arrays; those of several collectors go into `merge`."""
        width = self._kept.shape[1]
        mean, squares = np.zeros(width), np.zeros((width, width))
        if self._running.count:
            mean, squares = self._running.centred()
        arrays = {
            "count": np.array(self._running.count),
            "mean": mean,
            "squares": squares,
            "kept": self._kept,
        }
        if self._scores is not None:
            arrays["scores"] = self._scores.sums
        return arrays


def merge(num: int, parts: list[Arrays]) -> Statistics:
    """Returns the statistics of `num` images, of which each was seen in one part."""
    running = Running()
    for part in parts:
        other = Running.of(int(part["count"]), part["mean"], part["squares"])
        running = running.merge(other)
    if running.count != num:
        raise ValueError(f"features of {running.count} images, of {num}")
    score = float("nan"), float("nan")
    if "scores" in parts[0]:
        scores = RunningScores(num, parts[0]["scores"].shape[1] - 1)
        scores.sums = np.sum([part["scores"] for part in parts], axis=0)
        score = scores.result()
    kept = np.asarray(np.sum([part["kept"] for part in parts], axis=0))
    return Statistics(num, running.result(), kept, score)
