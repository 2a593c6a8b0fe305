"""The training losses: denoising for the teacher, distillation for the student.

Both return one value per example and take denoisers, never networks. Times and noise
are arguments, so every function here is deterministic.
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from progdist.diffusion import logsnr_bins
from progdist.diffusion.prediction import Denoise
from progdist.diffusion.process import diffuse
from progdist.diffusion.schedules import Schedule
from progdist.diffusion.settings import Weight
from progdist.diffusion.targets import multi_step_target


class ByLogsnr(NamedTuple):
    """A mean loss split by log-SNR bin (see `progdist.diffusion.logsnr_bins`).

    Attributes:
      parts: contribution of each bin; their sum is the mean loss.
      shares: share of the examples in each bin; their sum is 1. The mean loss in a bin
        is part / share.
    """

    parts: Float[Array, " bins"]
    shares: Float[Array, " bins"]


def loss_weight(logsnr: Float[Array, " b"], weight: Weight) -> Float[Array, " b"]:
    """Returns w(logsnr), the weight of the squared error in x (paper, section 4).

    snr = e^logsnr yields the error in eps; truncated_snr = max(e^logsnr, 1) the larger
    of the errors in x and eps; snr_plus_one = 1 + e^logsnr the error in v.

    Raises:
      ValueError: if `weight` is not one of `Weight`.
    """
    match weight:
        case "constant":
            return jnp.ones_like(logsnr)
        case "snr":
            return jnp.exp(logsnr)
        case "truncated_snr":
            return jnp.maximum(jnp.exp(logsnr), 1.0)
        case "snr_plus_one":
            return 1.0 + jnp.exp(logsnr)
    raise ValueError(f"loss weight: {weight!r} is not one of {get_args(Weight)}")


def base_loss(
    denoise: Denoise,
    schedule: Schedule,
    *,
    x: Float[Array, "b *d"],
    t: Float[Array, " b"],
    eps: Float[Array, "b *d"],
    weight: Weight,
) -> Float[Array, " b"]:
    """Returns w ||x - x̂(z_t)||², a mean over pixels, with z_t = alpha x + sigma eps."""
    logsnr_t = schedule(t)
    x_hat = denoise(diffuse(x, logsnr_t, eps), logsnr_t).x
    return _weighted_error(x, x_hat, logsnr_t, weight)


def distill_loss(
    student: Denoise,
    legs: Sequence[Denoise],
    schedule: Schedule,
    *,
    x: Float[Array, "b *d"],
    i: Int[Array, " b"],
    eps: Float[Array, "b *d"],
    num_steps: int | Int[Array, ""],
    weight: Weight,
) -> Float[Array, " b"]:
    """Returns w ||x_tilde - x̂(z_t)||² at t = i / N (paper, algorithm 2).

    Args:
      student: the denoiser to train, for N steps.
      legs: frozen denoisers, one for each step that a student step replaces.
      schedule: noise schedule of both.
      x: data.
      i: step indices in 1 … N.
      eps: noise, N(0, I).
      num_steps: N, the student's number of steps; may be traced.
      weight: name of w.
    """
    logsnr_t = schedule(i.astype(x.dtype) / jnp.asarray(num_steps, x.dtype))
    z_t = diffuse(x, logsnr_t, eps)
    x_tilde = jax.lax.stop_gradient(
        multi_step_target(legs, schedule, z_t, i=i, num_steps=num_steps)
    )
    return _weighted_error(x_tilde, student(z_t, logsnr_t).x, logsnr_t, weight)


def by_logsnr(loss: Float[Array, " b"], logsnr_t: Float[Array, " b"]) -> ByLogsnr:
    """Returns the contribution of each log-SNR bin to the mean loss."""
    number = jnp.round((logsnr_t - logsnr_bins.CENTRES[0]) / logsnr_bins.WIDTH)
    number = jnp.clip(number, 0, len(logsnr_bins.CENTRES) - 1).astype(int)
    # Not a matrix product, which a TPU would round, nor a scatter, which a GPU sums in
    # no fixed order.
    inside = number[:, None] == jnp.arange(len(logsnr_bins.CENTRES))[None]
    parts = jnp.mean(jnp.where(inside, loss[:, None], 0.0), axis=0)
    return ByLogsnr(parts, jnp.mean(inside, axis=0, dtype=loss.dtype))


def _weighted_error(
    x: Float[Array, "b *d"],
    x_hat: Float[Array, "b *d"],
    logsnr_t: Float[Array, " b"],
    weight: Weight,
) -> Float[Array, " b"]:
    error = jnp.mean(jnp.square(x - x_hat), axis=tuple(range(1, x.ndim)))
    return loss_weight(logsnr_t, weight) * error
