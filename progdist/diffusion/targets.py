"""Distillation targets: the x̂ for which ONE student step matches several others.

Salimans & Ho (2022), algorithm 2 and appendix G.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from progdist.diffusion.prediction import Denoise
from progdist.diffusion.samplers import Move, ddim_step
from progdist.diffusion.schedules import Schedule, over_pixels


def two_step_target(
    teacher: Denoise,
    schedule: Schedule,
    z_t: Float[Array, "b *d"],
    *,
    i: Int[Array, " b"],
    num_steps: int | Int[Array, ""],
) -> Float[Array, "b *d"]:
    """Returns the paper's x_tilde: `multi_step_target` with two teacher steps.

    With t_mid = t - 0.5 / N and s = t - 1 / N it is w x̂(z_t) + (1 - w) x̂(z_mid),
    w = expm1((logsnr_mid - logsnr_t) / 2) / expm1((logsnr_s - logsnr_t) / 2).
    """
    return multi_step_target([teacher] * 2, schedule, z_t, i=i, num_steps=num_steps)


def multi_step_target(
    legs: Sequence[Denoise],
    schedule: Schedule,
    z_t: Float[Array, "b *d"],
    *,
    i: Int[Array, " b"],
    num_steps: int | Int[Array, ""],
) -> Float[Array, "b *d"]:
    """Returns the x_tilde for which ONE student step lands where the legs do.

    Each leg is the denoiser of one DDIM step; they are equally long and lead from
    t = i / N to s = (i - 1) / N. A DDIM step adds (e^{logsnr_s / 2} - e^{logsnr_t / 2})
    x̂ to z / sigma, so the target is the average of the legs' predictions, weighted by
    those differences.
    That equals (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t)
    alpha_t), which subtracts nearly equal numbers for large N; the average does not
    cancel. At s = 0 the sampler returns x̂ itself, and the target is the last x̂.
    """
    ratio = len(legs)
    steps = jnp.arange(ratio + 1, dtype=z_t.dtype)[:, None]
    i = i[None].astype(z_t.dtype)
    num_knots = ratio * jnp.asarray(num_steps, z_t.dtype)
    logsnr = schedule((ratio * i - steps) / num_knots)
    weights = _convex_weights(logsnr, at_data=i == 1)
    z, x_tilde = z_t, jnp.zeros_like(z_t)
    for j, denoise in enumerate(legs):
        prediction = denoise(z, logsnr[j])
        x_tilde += over_pixels(weights[j], z) * prediction.x
        z = ddim_step(prediction, Move(z, logsnr[j], logsnr[j + 1], j))
    return x_tilde


def _convex_weights(
    logsnr: Float[Array, "knots b"], at_data: Bool[Array, "1 b"]
) -> Float[Array, "knots-1 b"]:
    """Returns each teacher step's share of e^{logsnr/2}'s growth; [0, …, 1] at data."""
    growth = jnp.exp((logsnr[:-1] - logsnr[:1]) / 2) * jnp.expm1(
        (logsnr[1:] - logsnr[:-1]) / 2
    )
    weights = growth / jnp.expm1((logsnr[-1:] - logsnr[:1]) / 2)
    last = jnp.arange(weights.shape[0])[:, None] == weights.shape[0] - 1
    return jnp.where(at_data, last.astype(weights.dtype), weights)
