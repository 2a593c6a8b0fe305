"""The forward process q and its reversal given x (paper, section 2)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from progdist.diffusion.schedules import alpha_sigma, over_pixels


class Gaussian(NamedTuple):
    """An isotropic normal: mean [b, *d], variance broadcastable to it."""

    mean: Float[Array, "b *d"]
    variance: Float[Array, "b *_"]


def diffuse(
    x: Float[Array, "b *d"], logsnr_t: Float[Array, " b"], eps: Float[Array, "b *d"]
) -> Float[Array, "b *d"]:
    """Returns z_t = alpha_t x + sigma_t eps, a draw of q(z_t | x) for eps ~ N(0, I)."""
    alpha, sigma = alpha_sigma(over_pixels(logsnr_t, x))
    return alpha * x + sigma * eps


def forward(
    z_s: Float[Array, "b *d"],
    *,
    logsnr_s: Float[Array, " b"],
    logsnr_t: Float[Array, " b"],
) -> Gaussian:
    """Returns q(z_t | z_s) = N((alpha_t / alpha_s) z_s, sigma²_{t|s} I), s < t.

    sigma²_{t|s} = (1 - exp(logsnr_t - logsnr_s)) sigma_t².
    """
    logsnr_s, logsnr_t = over_pixels(logsnr_s, z_s), over_pixels(logsnr_t, z_s)
    alpha_s, _ = alpha_sigma(logsnr_s)
    alpha_t, sigma_t = alpha_sigma(logsnr_t)
    return Gaussian(
        alpha_t / alpha_s * z_s, -jnp.expm1(logsnr_t - logsnr_s) * sigma_t**2
    )


def posterior(
    z_t: Float[Array, "b *d"],
    x: Float[Array, "b *d"],
    *,
    logsnr_t: Float[Array, " b"],
    logsnr_s: Float[Array, " b"],
) -> Gaussian:
    """Returns q(z_s | z_t, x), s < t (paper, eq. 2-3 of section 2).

    With r = exp(logsnr_t - logsnr_s): mean r (alpha_s / alpha_t) z_t + (1 - r) alpha_s
    x and variance (1 - r) sigma_s².
    """
    logsnr_t, logsnr_s = over_pixels(logsnr_t, z_t), over_pixels(logsnr_s, z_t)
    alpha_t, _ = alpha_sigma(logsnr_t)
    alpha_s, sigma_s = alpha_sigma(logsnr_s)
    r, one_minus_r = jnp.exp(logsnr_t - logsnr_s), -jnp.expm1(logsnr_t - logsnr_s)
    mean = r * (alpha_s / alpha_t) * z_t + one_minus_r * alpha_s * x
    return Gaussian(mean, one_minus_r * sigma_s**2)
