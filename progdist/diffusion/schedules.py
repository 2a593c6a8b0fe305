"""Noise schedules: the log signal-to-noise ratio as a function of time.

A schedule is a frozen, hashable value. `schedule(t)` is the log-SNR at t in [0, 1],
strictly decreasing; `schedule.inverse(logsnr)` is the time at which it is reached.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from progdist.diffusion.settings import ScheduleName


@runtime_checkable
class Schedule(Protocol):
    """A strictly decreasing log-SNR, and its inverse."""

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the log-SNR at t in [0, 1]."""
        ...

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the t in [0, 1] at which the log-SNR is reached."""
        ...


@dataclass(frozen=True)
class Cosine:
    """The cosine schedule, truncated to [logsnr_min, logsnr_max] (paper, appendix D).

    With the angle phi = a t + b: alpha = cos(phi), sigma = sin(phi), so
    logsnr = -2 log tan(phi). Beyond phi = pi/4 the complement pi/2 - phi is used, which
    is a (1 - t) + b' with a small b': near t = 1 the tangent of phi itself would lose
    half of float32's digits.
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def _angles(self) -> tuple[float, float, float]:
        b = float(np.arctan(np.exp(-self.logsnr_max / 2)))
        b_end = float(np.arctan(np.exp(self.logsnr_min / 2)))
        return np.pi / 2 - b - b_end, b, b_end

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns -2 log tan(a t + b)."""
        a, b, b_end = self._angles()
        phi, complement = a * t + b, a * (1 - t) + b_end
        # Not minimum(): where the two are equal, its derivative averages a and -a to 0.
        tan = jnp.tan(jnp.where(phi < complement, phi, complement))
        return jnp.where(phi < complement, -2.0, 2.0) * jnp.log(tan)

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns (atan(exp(-logsnr / 2)) - b) / a."""
        a, b, b_end = self._angles()
        angle = jnp.arctan(jnp.exp(-jnp.abs(logsnr) / 2))
        return jnp.where(logsnr > 0, (angle - b) / a, 1 - (angle - b_end) / a)


@dataclass(frozen=True)
class Linear:
    """Log-SNR linear in t, from logsnr_max at t = 0 to logsnr_min at t = 1."""

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns logsnr_max + (logsnr_min - logsnr_max) t."""
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the fraction of the way from logsnr_max to logsnr_min."""
        return (logsnr - self.logsnr_max) / (self.logsnr_min - self.logsnr_max)


@dataclass(frozen=True)
class LinearBeta:
    """The variance-preserving SDE with beta(t) linear (Song et al. 2021, eq. 32).

    alpha² = exp(-B) with B(t) = beta_min t + (beta_max - beta_min) t² / 2, so
    logsnr = -log(expm1(B)). Near t = 0 it is capped at logsnr_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    logsnr_max: float = 20.0

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns -log(expm1(B(t)))."""
        b = t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)
        return -jnp.log(jnp.maximum(jnp.expm1(b), np.exp(-self.logsnr_max)))

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the positive root of B(t) = log(1 + exp(-logsnr))."""
        b = jax.nn.softplus(-logsnr)
        slope = self.beta_max - self.beta_min
        return 2 * b / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * b))


@dataclass(frozen=True)
class LinearBetaDiscrete:
    """DDPM's discrete schedule (Ho et al. 2020): beta_k linear, k = 0 … T - 1.

    t = (k + 1) / T has alpha² = prod_{j <= k} (1 - beta_j); between those times the
    log-SNR is interpolated linearly, and t = 0 is logsnr_max.
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    logsnr_max: float = 20.0

    def _knots(self) -> "Knots":
        betas = np.linspace(self.beta_start, self.beta_end, self.num_timesteps)
        log_alpha2 = np.cumsum(np.log1p(-betas))
        logsnr = log_alpha2 - np.log(-np.expm1(log_alpha2))
        return Knots(tuple(logsnr.tolist()), self.logsnr_max)

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the interpolated log-SNR."""
        return self._knots()(t)

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the interpolated time."""
        return self._knots().inverse(logsnr)


@dataclass(frozen=True)
class Knots:
    """Discrete noise levels: knot k = 0 … T - 1 is the log-SNR at t = (k + 1) / T.

    Between the knots the log-SNR is interpolated linearly, and t = 0 is logsnr_max.
    """

    logsnr: tuple[float, ...]
    logsnr_max: float = 20.0

    def _table(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        t = np.linspace(0.0, 1.0, len(self.logsnr) + 1)
        return t.astype(dtype), np.asarray((self.logsnr_max, *self.logsnr), dtype)

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the interpolated log-SNR."""
        return jnp.interp(t, *self._table(t.dtype))

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the interpolated time."""
        times, knots = self._table(logsnr.dtype)
        return jnp.interp(logsnr, knots[::-1], times[::-1])


@dataclass(frozen=True)
class Karras:
    """The noise levels of Karras et al. (2022), eq. 5: sigma^(1 / rho) linear in t.

    sigma / alpha rises from sigma_min at t = 0 to sigma_max at t = 1, so logsnr =
    -2 log(sigma / alpha).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def __call__(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns -2 rho log of the root that is linear in t."""
        low, high = self._ends()
        return -2 * self.rho * jnp.log(low + (high - low) * t)

    def inverse(self, logsnr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns the root's fraction of the way from sigma_min to sigma_max."""
        low, high = self._ends()
        return (jnp.exp(logsnr / (-2 * self.rho)) - low) / (high - low)


def make_schedule(name: ScheduleName, knots: Sequence[float] = ()) -> Schedule:
    """Returns the named schedule with its published constants.

    Args:
      name: one of `ScheduleName`.
      knots: log-SNR at the network's timesteps, for "timesteps".

    Raises:
      ValueError: if `name` is not one of `ScheduleName`, or lacks knots.
    """
    match name:
        case "cosine":
            return Cosine()
        case "linear":
            return Linear()
        case "linear_beta":
            return LinearBeta()
        case "linear_beta_discrete":
            return LinearBetaDiscrete()
        case "karras":
            return Karras()
        case "timesteps" if len(knots):
            return Knots(tuple(knots))
        case "timesteps":
            raise ValueError("schedule='timesteps': the network has no timesteps")
    raise ValueError(f"schedule: {name!r} is not one of {get_args(ScheduleName)}")


def describe(schedule: Schedule) -> str:
    """Returns the name of a schedule, with the constants that differ from the defaults.

    For example "linear_beta(beta_max=10)". Equal descriptions mean equal schedules,
    except "timesteps", which depends on the network.
    """
    if isinstance(schedule, Knots):
        return "timesteps"
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(schedule).__name__).lower()
    constants = ", ".join(
        f"{field.name}={value:g}"
        for field in fields(schedule)  # pyright: ignore[reportArgumentType]
        if (value := getattr(schedule, field.name)) != field.default
    )
    return f"{name}({constants})" if constants else name


def alpha_sigma(
    logsnr: Float[Array, "*b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Returns alpha = sqrt(sigmoid(logsnr)) and sigma = sqrt(sigmoid(-logsnr))."""
    return jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))


def over_pixels(
    logsnr: Float[Array, " b"], z: Float[Array, "b *d"]
) -> Float[Array, "b *_"]:
    """Returns logsnr with an axis of size 1 per pixel axis of z, to broadcast."""
    return logsnr.reshape(logsnr.shape + (1,) * (z.ndim - 1))
