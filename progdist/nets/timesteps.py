"""Discrete noise levels of networks that take a timestep, not a log-SNR."""

import math
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from progdist.nets.types import Betas, Timesteps

_LIMIT = 20.0  # on |logsnr|; a terminal SNR of zero would be -infinity
_GAP = 1e-4  # the least between two levels; 50 times the rounding of float32 at -20
# Of a timestep; rounding of float32 stays below it for up to 10,000 levels.
_SNAP = 2e-3
_MAX_PERIOD = 1e4


def logsnr_of(timesteps: Timesteps) -> Float[np.ndarray, " t"]:
    """Returns the log-SNR of each noise level, in float64, strictly decreasing.

    Levels beyond a log-SNR of -20 follow each other from there in steps of 1e-4, so
    that float32 tells all levels apart: the target of distillation divides by their
    differences.

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
    return _told_apart(logsnr)


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


def embed_timestep(
    timestep: Float[Array, " b"],
    channels: int,
    *,
    flip: bool = True,
    shift: int = 0,
    rounded: bool = False,
) -> Float[Array, "b c"]:
    """Sines and cosines of the timestep, with frequencies 1 … 1e-4.

    Frequency j of h = channels / 2 is 1e4^(-j / (h - shift)).

    Args:
      timestep: timesteps; may lie between whole numbers.
      channels: even, above 2 `shift`.
      flip: whether the cosines come first.
      shift: 0 or 1; with 1 the last frequency is exactly 1e-4.
      rounded: whether each factor of a frequency is rounded to float32, as in
        diffusers; timesteps of up to 1000 multiply the difference.
    """
    half, kind = channels // 2, np.float32 if rounded else np.float64
    exponents = -kind(math.log(_MAX_PERIOD)) * np.arange(half, dtype=kind)
    rates = np.exp(exponents / kind(half - shift))
    phases = timestep[:, None] * jnp.asarray(rates, timestep.dtype)[None]
    waves = jnp.sin(phases), jnp.cos(phases)
    return jnp.concatenate(waves[::-1] if flip else waves, axis=-1)


def check_inputs(z: Array, label: Any, levels: int, num_classes: int) -> None:
    """Refuses inputs that do not fit a network with timesteps.

    Args:
      z: images, [b, h, w, c].
      label: numbers of classes, or None.
      levels: levels of the network, of which each after the first halves the size.
      num_classes: number of classes; 0 ignores the labels.

    Raises:
      ValueError: if the sides cannot be halved, or a label is missing.
    """
    height, width = z.shape[1:3]
    factor = 2 ** (levels - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"image of {height}x{width}: height and width must be divisible by "
            f"{factor}, for {levels} levels"
        )
    if num_classes > 0 and label is None:
        raise ValueError(f"label is None, num_classes={num_classes} needs one")


def _told_apart(logsnr: np.ndarray) -> np.ndarray:
    """Returns finite levels that differ in float32, each below the one before it."""
    levels = np.clip(logsnr, -_LIMIT, _LIMIT - _GAP)
    if (np.diff(levels) <= -_GAP).all():
        return levels
    falling = _GAP * np.arange(len(levels))
    return np.minimum.accumulate(levels + falling) - falling


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
