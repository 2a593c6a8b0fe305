"""Predictions of x, eps and v.

With z_t = alpha x + sigma eps and v = alpha eps - sigma x (paper, section 4), any one
of x, eps and v gives the other two.
"""

from collections.abc import Callable
from typing import NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from progdist.diffusion.schedules import alpha_sigma, over_pixels
from progdist.diffusion.settings import Clip, Parameterization


class Prediction(NamedTuple):
    """A denoiser's prediction in three forms; z_t = alpha x + sigma eps holds.

    Only after `clip` with "keep" it does not.
    """

    x: Float[Array, "b *d"]
    eps: Float[Array, "b *d"]
    v: Float[Array, "b *d"]


Denoise = Callable[[Float[Array, "b *d"], Float[Array, " b"]], Prediction]
"""A denoiser maps z_t and its logsnr_t to a prediction."""


def from_output(
    output: Float[Array, "b *o"],
    z_t: Float[Array, "b *d"],
    logsnr_t: Float[Array, " b"],
    parameterization: Parameterization,
) -> Prediction:
    """Returns the full `Prediction` of a raw network output.

    Args:
      output: shaped like z_t; for "both" the last axis is twice as long, x first, eps
        second. Then x̂ = sigma² x_out + alpha (z_t - sigma eps_out), which is the
        v-prediction v = alpha eps_out - sigma x_out.
      z_t: the noisy images.
      logsnr_t: log-SNR of z_t; finite.
      parameterization: meaning of the output.

    Raises:
      ValueError: if it is not one of `Parameterization`.
    """
    alpha, sigma = alpha_sigma(over_pixels(logsnr_t, z_t))
    match parameterization:
        case "x":
            x = output
            return Prediction(x, (z_t - alpha * x) / sigma, (alpha * z_t - x) / sigma)
        case "eps":
            eps = output
            return Prediction(
                (z_t - sigma * eps) / alpha, eps, (eps - sigma * z_t) / alpha
            )
        case "v":
            v = output
        case "both":
            x_out, eps_out = jnp.split(output, 2, axis=-1)
            v = alpha * eps_out - sigma * x_out
        case _:
            known = get_args(Parameterization)
            raise ValueError(
                f"parameterization: {parameterization!r} is not one of {known}"
            )
    return Prediction(alpha * z_t - sigma * v, sigma * z_t + alpha * v, v)


def clip(
    prediction: Prediction,
    z_t: Float[Array, "b *d"],
    logsnr_t: Float[Array, " b"],
    rule: Clip = "recompute",
) -> Prediction:
    """Clips x̂ to [-1, 1], the range of images.

    Args:
      prediction: the prediction at z_t.
      z_t: the noisy images.
      logsnr_t: log-SNR of z_t; finite.
      rule: "recompute" takes eps and v from the clipped x̂, as the paper's code does;
        "keep" leaves them as predicted, as diffusers does, so that they no longer
        agree with x̂; "none" does not clip.

    Raises:
      ValueError: if `rule` is not one of `Clip`.
    """
    x = jnp.clip(prediction.x, -1.0, 1.0)
    match rule:
        case "recompute":
            return from_output(x, z_t, logsnr_t, "x")
        case "keep":
            return prediction._replace(x=x)
        case "none":
            return prediction
    raise ValueError(f"clip: {rule!r} is not one of {get_args(Clip)}")


def num_outputs(parameterization: Parameterization) -> int:
    """Returns the number of output channels per channel of the image."""
    return 2 if parameterization == "both" else 1
