"""The Fréchet distance, and the moments it needs, gathered batch by batch."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

_CHEAP = 512  # features; the roots of so small a covariance take no time


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of features, in float64."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.trace(self.covariance))

    @functools.cached_property
    def root(self) -> Float[np.ndarray, "d r"]:
        """R such that R Rᵀ is the covariance, without the null directions."""
        # NumPy's, since SciPy's keep all other Python threads waiting.
        values, vectors = np.linalg.eigh(self.covariance)
        rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        positive = values > rounding
        if not positive.any():
            return np.zeros((len(values), 1))
        return vectors[:, positive] * np.sqrt(values[positive])


@dataclasses.dataclass(frozen=True, eq=False)
class ThinMoments:
    """Moments of fewer images than features: the covariance is known by its root.

    Attributes:
      mean: mean of the features.
      root: deviations from it over √(n - 1), so that root rootᵀ is the covariance.
    """

    mean: Float[np.ndarray, " d"]
    root: Float[np.ndarray, "d n"]

    @property
    def trace(self) -> float:
        """Trace of the covariance."""
        return float(np.sum(self.root**2))

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "ThinMoments":
        """Returns the moments of features, with the unbiased covariance.

        Raises:
          ValueError: if there are fewer than two features.
        """
        _check_count(len(features))
        x = features.astype(np.float64)
        mean = x.mean(0)
        return cls(mean, (x - mean).T / np.sqrt(len(x) - 1))


def is_thin(num: int, num_features: int) -> bool:
    """Whether `ThinMoments` of so many images take less time than `Moments`."""
    return num < num_features and num_features > _CHEAP


class Running:
    """Running sums over features, in constant memory.

    The sums are about the mean of the first batch, so that subtracting the mean at the
    end cancels almost nothing.
    """

    def __init__(self) -> None:
        """Starts with no features."""
        self.count = 0
        self._shift: np.ndarray | None = None
        self._total: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, features: Float[np.ndarray, "b d"]) -> None:
        """Adds a batch, which may be empty."""
        if not len(features):
            return
        x = features.astype(np.float64)
        shift = x.mean(0) if self._shift is None else self._shift
        self._shift, x = shift, x - shift
        self.count += len(x)
        self._total = self._total + x.sum(0)
        self._squares = self._squares + x.T @ x

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean, and the sum of squares about it [d, d]."""
        if self._shift is None:
            raise ValueError("no features yet")
        mean = np.asarray(self._total) / self.count
        squares = self._squares - self.count * np.outer(mean, mean)
        return self._shift + mean, squares

    def state(self, num_features: int) -> dict[str, np.ndarray]:
        """Returns the sums as they are, for `restore`."""
        shape = num_features, num_features
        shift = 0.0 if self._shift is None else self._shift
        return {
            "count": np.array(self.count),
            "shift": np.broadcast_to(shift, shape[0]),
            "total": np.broadcast_to(self._total, shape[0]),
            "squares": np.broadcast_to(self._squares, shape),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Resumes from a state."""
        self.count = int(state["count"])
        self._shift = state["shift"] if self.count else None
        self._total, self._squares = state["total"], state["squares"]

    def result(self) -> Moments:
        """Returns the moments, with the unbiased covariance.

        Raises:
          ValueError: if there are fewer than two features.
        """
        _check_count(self.count)
        mean, squares = self.centred()
        return Moments(mean, squares / (self.count - 1))

    @classmethod
    def of(cls, count: int, mean: np.ndarray, squares: np.ndarray) -> "Running":
        """Returns the sums of `count` features, from the result of `centred`."""
        running = cls()
        running.count, running._shift = count, mean
        running._total, running._squares = np.zeros_like(mean), squares
        return running

    def merge(self, other: "Running") -> "Running":
        """Returns the combined sums (Chan, Golub & LeVeque 1983)."""
        if not (self.count and other.count):
            return self if self.count else other
        (mean, squares), (mean_b, squares_b) = self.centred(), other.centred()
        count = self.count + other.count
        delta = mean_b - mean
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Running.of(
            count, mean + delta * (other.count / count), squares + squares_b + between
        )


def frechet_distance(a: Moments | ThinMoments, b: Moments | ThinMoments) -> float:
    """Returns |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) (Dowson & Landau 1982).

    With C = R Rᵀ the trace of the root is the sum of the singular values of R_aᵀ R_b.
    These are exact to rounding; square roots of the eigenvalues of C_a C_b would lose
    half of the digits.
    """
    cross = float(np.sum(np.linalg.svd(a.root.T @ b.root, compute_uv=False)))
    trace = a.trace + b.trace
    return float(np.sum((a.mean - b.mean) ** 2)) + trace - 2.0 * cross


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(f"moments of {count} features; at least 2 are needed")
