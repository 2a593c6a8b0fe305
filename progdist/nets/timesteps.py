"""Discrete noise levels of networks that take a timestep, not a log-SNR."""

import math
from typing import get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from progdist.nets.settings import Betas, Timesteps

_LIMIT = 20.0  # on |logsnr|; a terminal SNR of zero would be -infinity
_SNAP = 2e-3  # of a timestep; rounding of float32 stays below it


def logsnr_of(timesteps: Timesteps) -> Float[np.ndarray, " t"]:
    """Returns the log-SNR of each noise level, in float64, strictly decreasing.

    Raises:
      ValueError: if a beta is outside (0, 1), or their number is not `num_timesteps`.
    """
    betas = _betas(timesteps)
    if len(betas) != timesteps.num_timesteps:
        raise ValueError(
            f"trained_betas: {len(betas)} values, num_timesteps is "
            f"{timesteps.num_timesteps}"
        )
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError("betas: must be above 0 and below 1")
    log_alpha2 = np.cumsum(np.log1p(-betas))
    if timesteps.zero_terminal_snr:
        log_alpha2 = _ending_at_zero(log_alpha2)
    with np.errstate(divide="ignore"):
        logsnr = log_alpha2 - np.log(-np.expm1(log_alpha2))
    return np.clip(logsnr, -_LIMIT, _LIMIT)


def timestep_of(
    logsnr: Float[Array, " b"], knots: Float[np.ndarray, " t"]
) -> Float[Array, " b"]:
    """Returns the timestep in [0, T - 1] at which a log-SNR is reached.

    It is a whole number at the knots. Between two knots the log-SNR is taken as linear,
    and beyond the outer ones the timestep is theirs.
    """
    rising = np.asarray(knots[::-1], logsnr.dtype)
    numbers = np.arange(len(knots), dtype=logsnr.dtype)[::-1]
    timestep = jnp.interp(logsnr, rising, numbers)
    whole = jnp.round(timestep)
    return jnp.where(jnp.abs(timestep - whole) < _SNAP, whole, timestep)


def _betas(timesteps: Timesteps) -> np.ndarray:
    """Returns the betas as diffusers and DDPM define them."""
    first, last, count = (
        timesteps.beta_start,
        timesteps.beta_end,
        timesteps.num_timesteps,
    )
    match timesteps.betas:
        case "linear":
            return np.linspace(first, last, count)
        case "scaled_linear":
            return np.linspace(first**0.5, last**0.5, count) ** 2
        case "squaredcos_cap_v2":
            times = np.arange(count + 1) / count
            alpha2 = np.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
            return np.minimum(1 - alpha2[1:] / alpha2[:-1], 0.999)
        case "trained":
            return np.asarray(timesteps.trained_betas, np.float64)
    raise ValueError(f"betas: {timesteps.betas!r} is not one of {get_args(Betas)}")


def _ending_at_zero(log_alpha2: np.ndarray) -> np.ndarray:
    alpha = np.exp(log_alpha2 / 2)
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    with np.errstate(divide="ignore"):
        return 2 * np.log(alpha)
