"""The train step: one function, and one compilation, for all rounds.

The teacher's parameters, the number of steps and of updates are arguments, so that a
round differs from the last in values alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from progdist import parallel
from progdist.denoiser import bind
from progdist.diffusion import losses
from progdist.diffusion.prediction import Target
from progdist.diffusion.schedules import Schedule
from progdist.trainer.state import Params, TrainState, apply_gradient

Scalar = Float[Array, ""]


class Round(NamedTuple):
    """What differs between rounds, on the device.

    Attributes:
      teacher_params: the frozen teacher's; () in the base phase, which has none.
      num_steps: N, the student's network calls.
      num_updates: length of the phase, which the learning rate needs.
      key: the phase's key; an update uses fold_in(key, step).
    """

    teacher_params: Params
    num_steps: Int[Array, ""]
    num_updates: Int[Array, ""]
    key: Key[Array, ""]


class Metrics(NamedTuple):
    """What an update reports.

    Where one of them is not finite, the update was skipped: the state is the one
    before, a step further.

    Attributes:
      loss: mean over the global batch.
      grad_norm: before clipping.
      param_norm: of the parameters that the update would have left.
      learning_rate: of this update.
      by_logsnr: the loss in parts.
    """

    loss: Scalar
    grad_norm: Scalar
    param_norm: Scalar
    learning_rate: Scalar
    by_logsnr: losses.ByLogsnr


class Draws(NamedTuple):
    """A batch's random numbers; a row's depend on its place in the global batch.

    Attributes:
      u: uniform in [0, 1), spread evenly over the batch.
      eps: N(0, I).
      dropout_keys: one key an example.
    """

    u: Float[Array, " b"]
    eps: Float[Array, "b *d"]
    dropout_keys: Key[Array, " b"]


class Examples(NamedTuple):
    """What was computed of each example: its loss, and the log-SNR of its z_t."""

    loss: Float[Array, " b"]
    logsnr_t: Float[Array, " b"]


Loss = Callable[[Params, Round, Any, Draws], Examples]
TrainStep = Callable[[TrainState, Round, Any], tuple[TrainState, Metrics]]


def make_base_loss(
    net: nn.Module, output: Target, schedule: Schedule, weight: losses.Weight
) -> Loss:
    """Returns the denoising loss at continuous t."""

    def loss(params: Params, _: Round, batch: Any, draws: Draws) -> Examples:
        denoise = bind(net, params, output, batch.label, draws.dropout_keys)
        each = losses.base_loss(
            denoise, schedule, batch.image, draws.u, draws.eps, weight
        )
        return Examples(each, schedule(draws.u))

    return loss


def make_distill_loss(
    net: nn.Module,
    output: Target,
    schedule: Schedule,
    weight: losses.Weight,
    ratio: int,
) -> Loss:
    """Returns the distillation loss at t = i / N, with the round's teacher."""

    def loss(params: Params, round_: Round, batch: Any, draws: Draws) -> Examples:
        num_steps = round_.num_steps
        # u < 1, but u N can round up to N.
        i = jnp.minimum(jnp.floor(draws.u * num_steps).astype(int) + 1, num_steps)
        each = losses.distill_loss(
            bind(net, params, output, batch.label, draws.dropout_keys),
            bind(net, round_.teacher_params, output, batch.label),
            schedule,
            batch.image,
            i,
            draws.eps,
            num_steps,
            weight,
            ratio,
        )
        return Examples(each, schedule(i / num_steps))

    return loss


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    rate: Callable[[Int[Array, ""], Int[Array, ""]], Scalar],
    ema_decay: float,
    mesh: Mesh,
) -> TrainStep:
    """Returns (state, round, batch) -> (state, metrics), mapped over the devices.

    Args:
      loss: per example; its mean over the global batch is minimised.
      optimizer: without a learning rate.
      rate: (step, num_updates) to the learning rate.
      ema_decay: of the parameters' average, where the state keeps one.
      mesh: of the devices; the batch is split over them, all else replicated.
        The state passed in is donated.
    """

    def step(
        state: TrainState, round_: Round, batch: Any
    ) -> tuple[TrainState, Metrics]:
        draws = _draw(jax.random.fold_in(round_.key, state.step), batch.image)

        def mean_loss(params: Params) -> tuple[Scalar, losses.ByLogsnr]:
            examples = loss(params, round_, batch, draws)
            return jnp.mean(examples.loss), losses.by_logsnr(*examples)

        (value, by_logsnr), gradient = parallel.value_and_mean_grad(
            mean_loss, state.params, has_aux=True
        )
        learning_rate = rate(state.step, round_.num_updates)
        after = apply_gradient(state, gradient, optimizer, learning_rate, ema_decay)
        norms = optax.tree.norm(gradient), optax.tree.norm(after.params)
        metrics = Metrics(value, *norms, learning_rate, by_logsnr)
        return _unless_broken(metrics, state, after), metrics

    return parallel.pmap(step, mesh, (None, None, 0), (None, None), donate_argnums=(0,))


def _unless_broken(
    metrics: Metrics, before: TrainState, after: TrainState
) -> TrainState:
    """Returns the state after the update, or, if it is not finite, the one before."""
    finite = jnp.all(jnp.isfinite(jnp.hstack(jax.tree.leaves(metrics))))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return kept._replace(step=after.step)


def _draw(key: Key[Array, ""], image: Float[Array, "b *d"]) -> Draws:
    """Returns this device's rows of the update's random numbers."""
    rows, size = parallel.rows_here(image.shape[0])
    offset_key, noise_key, dropout_key = jax.random.split(key, 3)
    # One uniform offset and an even grid: each u is uniform, and the batch covers
    # [0, 1) evenly, which lowers the variance of the loss.
    u = jnp.mod(jax.random.uniform(offset_key) + rows / size, 1.0)
    noise_keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, rows)
    eps = jax.vmap(lambda k: jax.random.normal(k, image.shape[1:], image.dtype))
    dropout_keys = jax.vmap(jax.random.fold_in, (None, 0))(dropout_key, rows)
    return Draws(u, eps(noise_keys), dropout_keys)
