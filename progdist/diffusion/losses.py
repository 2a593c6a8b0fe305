"""The training losses: denoising for the teacher, distillation for the student.

Both return one value an example and take denoisers, never networks; times and noise
come in as arguments, so every function here is deterministic.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from progdist.diffusion import logsnr_bins
from progdist.diffusion.prediction import Denoise
from progdist.diffusion.process import diffuse
from progdist.diffusion.samplers import Move, ddim_step
from progdist.diffusion.schedules import Schedule, over_pixels

Weight = Literal["constant", "snr", "truncated_snr", "snr_plus_one"]


class ByLogsnr(NamedTuple):
    """A mean loss in parts, by bins of the log-SNR (`progdist.diffusion.logsnr_bins`).

    Attributes:
      parts: of the mean loss, which is their sum.
      shares: of the examples, whose sum is 1. A bin's own mean is part / share.
    """

    parts: Float[Array, " bins"]
    shares: Float[Array, " bins"]


def loss_weight(logsnr: Float[Array, " b"], weight: Weight) -> Float[Array, " b"]:
    """Returns w(logsnr), the weight of the squared error in x (paper, section 4).

    snr = e^logsnr makes it the error in eps; truncated_snr = max(e^logsnr, 1) the
    larger of the errors in x and eps; snr_plus_one = 1 + e^logsnr the error in v.

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
    teacher: Denoise,
    schedule: Schedule,
    x: Float[Array, "b *d"],
    i: Int[Array, " b"],
    eps: Float[Array, "b *d"],
    num_steps: int | Int[Array, ""],
    weight: Weight,
    ratio: int = 2,
) -> Float[Array, " b"]:
    """Returns w ||x_tilde - x̂(z_t)||² at t = i / N (paper, algorithm 2).

    Args:
      student: the denoiser that is trained, to take N steps.
      teacher: the frozen denoiser, which takes ratio × N; no gradient reaches it.
      schedule: the schedule of both.
      x: data.
      i: step indices in 1 … N.
      eps: noise, N(0, I).
      num_steps: N, the student's number of steps; may be traced.
      weight: which w.
      ratio: teacher steps that one student step replaces.
    """
    logsnr_t = schedule(i.astype(x.dtype) / num_steps)
    z_t = diffuse(x, logsnr_t, eps)
    x_tilde = jax.lax.stop_gradient(
        multi_step_target(teacher, schedule, z_t, i, num_steps, ratio)
    )
    return _weighted_error(x_tilde, student(z_t, logsnr_t).x, logsnr_t, weight)


def by_logsnr(loss: Float[Array, " b"], logsnr_t: Float[Array, " b"]) -> ByLogsnr:
    """Returns the parts that each bin of the log-SNR has in the mean loss."""
    number = jnp.round((logsnr_t - logsnr_bins.CENTRES[0]) / logsnr_bins.WIDTH)
    number = jnp.clip(number, 0, len(logsnr_bins.CENTRES) - 1)
    # No product of matrices, which a TPU would round, and no scatter, which a GPU adds
    # up in any order.
    inside = number[:, None] == jnp.arange(len(logsnr_bins.CENTRES))[None]
    parts = jnp.mean(jnp.where(inside, loss[:, None], 0.0), axis=0)
    return ByLogsnr(parts, jnp.mean(inside, axis=0, dtype=loss.dtype))


def two_step_target(
    teacher: Denoise,
    schedule: Schedule,
    z_t: Float[Array, "b *d"],
    i: Int[Array, " b"],
    num_steps: int | Int[Array, ""],
) -> Float[Array, "b *d"]:
    """Returns the paper's x_tilde: `multi_step_target` with two teacher steps.

    With t_mid = t - 0.5 / N and s = t - 1 / N it is w x̂(z_t) + (1 - w) x̂(z_mid),
    w = expm1((logsnr_mid - logsnr_t) / 2) / expm1((logsnr_s - logsnr_t) / 2).
    """
    return multi_step_target(teacher, schedule, z_t, i, num_steps, ratio=2)


def multi_step_target(
    teacher: Denoise,
    schedule: Schedule,
    z_t: Float[Array, "b *d"],
    i: Int[Array, " b"],
    num_steps: int | Int[Array, ""],
    ratio: int,
) -> Float[Array, "b *d"]:
    """Returns the x_tilde with which ONE student step lands where the teacher does.

    The teacher takes `ratio` DDIM steps from t = i / N to s = (i - 1) / N. A DDIM step
    adds (e^{logsnr_s / 2} - e^{logsnr_t / 2}) x̂ to z / sigma, so the target is the
    average of the teacher's predictions on the way, weighted by those differences.
    That equals (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t)
    alpha_t), which subtracts nearly equal numbers where N is large; the average cannot
    cancel. Where s = 0 the sampler returns x̂ itself, and so does this.
    """
    steps = jnp.arange(ratio + 1, dtype=z_t.dtype)[:, None]
    logsnr = schedule((ratio * i[None] - steps) / (ratio * num_steps))
    weights = _convex_weights(logsnr, at_data=i[None] == 1)
    z, x_tilde = z_t, jnp.zeros_like(z_t)
    for j in range(ratio):
        prediction = teacher(z, logsnr[j])
        x_tilde += over_pixels(weights[j], z) * prediction.x
        z = ddim_step(prediction, Move(z, logsnr[j], logsnr[j + 1], j))
    return x_tilde


def _convex_weights(
    logsnr: Float[Array, "knots b"], at_data: Bool[Array, "1 b"]
) -> Float[Array, "knots-1 b"]:
    """The share of each teacher step in e^{logsnr/2}'s growth; [0, …, 0, 1] at data."""
    growth = jnp.exp((logsnr[:-1] - logsnr[:1]) / 2) * jnp.expm1(
        (logsnr[1:] - logsnr[:-1]) / 2
    )
    weights = growth / jnp.expm1((logsnr[-1:] - logsnr[:1]) / 2)
    last = jnp.arange(weights.shape[0])[:, None] == weights.shape[0] - 1
    return jnp.where(at_data, last.astype(weights.dtype), weights)


def _weighted_error(
    x: Float[Array, "b *d"],
    x_hat: Float[Array, "b *d"],
    logsnr_t: Float[Array, " b"],
    weight: Weight,
) -> Float[Array, " b"]:
    error = jnp.mean(jnp.square(x - x_hat), axis=tuple(range(1, x.ndim)))
    return loss_weight(logsnr_t, weight) * error
