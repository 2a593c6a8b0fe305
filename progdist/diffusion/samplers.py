"""DDIM and ancestral sampling: N steps are N network calls, N = 1 included.

Step i = N - 1, …, 0 goes from t = (i + 1) / N to s = i / N. At the last step (s = 0)
both samplers return x̂ itself. N may be a traced value; one compilation then serves
every N.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from progdist.diffusion.prediction import (
    Denoise,
    Prediction,
    clip as clip_prediction,
)
from progdist.diffusion.process import posterior
from progdist.diffusion.schedules import Schedule, alpha_sigma, over_pixels
from progdist.diffusion.settings import Clip

Index = int | Int[Array, ""]


class Move(NamedTuple):
    """The next step i, from z_t at logsnr_t to logsnr_s."""

    z_t: Float[Array, "b *d"]
    logsnr_t: Float[Array, " b"]
    logsnr_s: Float[Array, " b"]
    i: Index


Step = Callable[[Prediction, Move], Float[Array, "b *d"]]
"""A rule that returns z_s from a move and the prediction at z_t."""


class Trajectory(NamedTuple):
    """All states of a sampling run of N steps, in order."""

    t: Float[Array, " n+1"]
    z: Float[Array, "n+1 b *d"]
    x: Float[Array, "n b *d"]


def ddim_step(prediction: Prediction, move: Move) -> Float[Array, "b *d"]:
    """The DDIM step z_s = alpha_s x̂ + sigma_s epŝ (paper, eq. 8).

    It equals e^{(logsnr_t - logsnr_s) / 2} (alpha_s / alpha_t) z_t + (1 - e^{…})
    alpha_s x̂; this form neither divides nor cancels.
    """
    alpha_s, sigma_s = alpha_sigma(over_pixels(move.logsnr_s, move.z_t))
    return alpha_s * prediction.x + sigma_s * prediction.eps


def make_ancestral_step(keys: Key[Array, " b"], gamma: float) -> Step:
    """Returns the ancestral step, with one key per image (paper, eq. 4).

    z_s = mean of q(z_s | z_t, x̂) + noise of variance
    (sigma_s² (1 - r))^(1 - gamma) (sigma²_{t|s})^gamma, r = exp(logsnr_t - logsnr_s).

    Args:
      keys: the noise of image j at step i is drawn from fold_in(keys[j], i).
      gamma: 0 is the lower bound of the reverse variance, 1 the upper.

    Raises:
      ValueError: if gamma is outside [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: {gamma} is not in [0, 1]")

    def step(prediction: Prediction, move: Move) -> Float[Array, "b *d"]:
        q = posterior(
            move.z_t, prediction.x, logsnr_t=move.logsnr_t, logsnr_s=move.logsnr_s
        )
        _, sigma_t = alpha_sigma(over_pixels(move.logsnr_t, move.z_t))
        _, sigma_s = alpha_sigma(over_pixels(move.logsnr_s, move.z_t))
        # Both bounds have the factor 1 - r; one has sigma_s², the other sigma_t².
        std = jnp.sqrt(q.variance) * (sigma_t / sigma_s) ** gamma
        noise = jax.vmap(
            lambda key: jax.random.normal(
                jax.random.fold_in(key, move.i), move.z_t.shape[1:], move.z_t.dtype
            )
        )(keys)
        return q.mean + std * noise

    return step


def sample(
    denoise: Denoise,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    *,
    num_steps: Index,
    first: Index = 0,
    last: Index | None = None,
    step: Step = ddim_step,
    clip: Clip = "recompute",
) -> Float[Array, "b *d"]:
    """Draws images from the noise z_1 ~ N(0, I) in exactly `num_steps` network calls.

    Args:
      denoise: the model, bound to its parameters.
      schedule: noise schedule of the model's training.
      z_1: noise at t = 1; the state after `first` steps, if that is not 0.
      num_steps: N >= 1; a Python integer or a traced value.
      first: number of steps already done.
      last: number of steps done at the end; by default all N.
      step: `ddim_step`, or a step of `make_ancestral_step`.
      clip: whether x̂ is clipped at every step, and how; see `prediction.clip`.

    Returns:
      The x̂ of the last step; the state after `last` steps, if that is not N.
    """

    def body(j: Array, z_t: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        i = num_steps - 1 - j
        return advance(
            denoise, schedule, z_t, i=i, num_steps=num_steps, step=step, clip=clip
        )[0]

    return jax.lax.fori_loop(first, num_steps if last is None else last, body, z_1)


def trajectory(
    denoise: Denoise,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    *,
    num_steps: int,
    step: Step = ddim_step,
    clip: Clip = "recompute",
) -> Trajectory:
    """Returns all states of `sample`; `z[-1]` equals its result."""

    def body(
        z_t: Float[Array, "b *d"], i: Int[Array, ""]
    ) -> tuple[Float[Array, "b *d"], tuple[Array, Array]]:
        z_s, x = advance(
            denoise, schedule, z_t, i=i, num_steps=num_steps, step=step, clip=clip
        )
        return z_s, (z_s, x)

    _, (z, x) = jax.lax.scan(body, z_1, jnp.arange(num_steps - 1, -1, -1))
    t = jnp.arange(num_steps, -1, -1) / num_steps
    return Trajectory(t.astype(z_1.dtype), jnp.concatenate([z_1[None], z]), x)


def advance(
    denoise: Denoise,
    schedule: Schedule,
    z_t: Float[Array, "b *d"],
    *,
    i: Index,
    num_steps: Index,
    step: Step = ddim_step,
    clip: Clip = "recompute",
) -> tuple[Float[Array, "b *d"], Float[Array, "b *d"]]:
    """Returns (z_s, x̂) of step i of num_steps."""
    times = jnp.stack([jnp.asarray(i + 1), jnp.asarray(i)]).astype(z_t.dtype)
    logsnr = schedule(times / num_steps)
    logsnr_t, logsnr_s = (jnp.broadcast_to(logsnr[k], z_t.shape[:1]) for k in (0, 1))
    prediction = denoise(z_t, logsnr_t)
    prediction = clip_prediction(prediction, z_t, logsnr_t, clip)
    z_s = step(prediction, Move(z_t, logsnr_t, logsnr_s, i))
    return jnp.where(jnp.asarray(i) == 0, prediction.x, z_s), prediction.x
