"""The train step: one function, and one compilation, for all rounds.

The teacher's parameters, the number of steps and the number of updates are arguments,
so that rounds differ only in values.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from progdist import parallel
from progdist.config import Times
from progdist.diffusion import losses
from progdist.diffusion.prediction import Denoise
from progdist.diffusion.schedules import Schedule
from progdist.diffusion.settings import Weight
from progdist.model import Model, Params, bind
from progdist.nets.blocks import Dropout
from progdist.nets.conditioning import Conditioning
from progdist.parallel import PyTree
from progdist.trainer.gradient import Division, mean_gradient
from progdist.trainer.state import TrainState, apply_gradient

Scalar = Float[Array, ""]


class Round(NamedTuple):
    """Constants of a phase, on the devices; rounds differ in values, not in shapes.

    Attributes:
      teacher_params: parameters of the frozen teacher; () in the base phase.
      num_steps: N, the student's network calls.
      num_updates: length of the phase, for the learning rate.
      key: the phase's key; an update uses fold_in(key, step).
    """

    teacher_params: Params
    num_steps: Int[Array, ""]
    num_updates: Int[Array, ""]
    key: Key[Array, ""]


class Metrics(NamedTuple):
    """Metrics of an update.

    If one of them is not finite, the update was skipped: only the step counter of the
    state advanced.

    Attributes:
      loss: mean over the global batch.
      grad_norm: global norm of the gradient before clipping; with groups their mean.
      param_norm: global norm of the updated parameters, even if the update is skipped.
      learning_rate: learning rate of the update.
      by_logsnr: the loss by log-SNR bin.
    """

    loss: Scalar
    grad_norm: Scalar
    param_norm: Scalar
    learning_rate: Scalar
    by_logsnr: losses.ByLogsnr


class Draws(NamedTuple):
    """Random numbers of a batch; each row's depend on its index in the global batch.

    Attributes:
      u: uniform in [0, 1).
      eps: N(0, I).
      dropout_keys: one key per example.
    """

    u: Float[Array, " b"]
    eps: Float[Array, "b *d"]
    dropout_keys: Key[Array, " b"]


class Examples(NamedTuple):
    """Loss of each example, and log-SNR of its z_t."""

    loss: Float[Array, " b"]
    logsnr_t: Float[Array, " b"]


Loss = Callable[[TrainState, Round, Any, Draws], Examples]
"""Loss of the examples, differentiated with respect to `state.params`."""
_WHOLE = Division()
TrainStep = Callable[[TrainState, Round, Any], tuple[TrainState, Metrics]]


def make_base_loss(model: Model, *, weight: Weight, dropout: float = 0.0) -> Loss:
    """Returns the denoising loss at continuous t.

    Args:
      model: the model that is trained.
      weight: weight of the squared error in x.
      dropout: dropout rate.
    """

    def loss(state: TrainState, _: Round, batch: Any, draws: Draws) -> Examples:
        denoise = bind(model, state.params, _dropout(draws, dropout))
        each = losses.base_loss(
            functools.partial(denoise, conditioning=Conditioning(batch.label)),
            model.schedule,
            x=batch.image,
            t=draws.u,
            eps=draws.eps,
            weight=weight,
        )
        return Examples(each, model.schedule(draws.u))

    return loss


def make_distill_loss(
    student: Model,
    teacher: Model,
    *,
    weight: Weight,
    ratio: int,
    dropout: float = 0.0,
    is_given: bool = False,
) -> Loss:
    """Returns the distillation loss at t = i / N.

    Args:
      student: the model that is trained, along its schedule.
      teacher: the model of the round's `teacher_params`.
      weight: weight of the squared error in x.
      ratio: teacher steps that one student step replaces.
      dropout: dropout rate of the student.
      is_given: whether the teacher may have another schedule than the student; it is
        then asked within its own.
    """

    def loss(state: TrainState, round_: Round, batch: Any, draws: Draws) -> Examples:
        num_steps, schedule = round_.num_steps, student.schedule
        # u < 1, but u N can round up to N.
        i = jnp.minimum(jnp.floor(draws.u * num_steps).astype(int) + 1, num_steps)
        conditioning = Conditioning(batch.label)
        student_denoise = bind(student, state.params, _dropout(draws, dropout))
        teacher_denoise = bind(teacher, round_.teacher_params)
        leg = functools.partial(teacher_denoise, conditioning=conditioning)
        each = losses.distill_loss(
            functools.partial(student_denoise, conditioning=conditioning),
            [_in_range(leg, teacher.schedule) if is_given else leg] * ratio,
            schedule,
            x=batch.image,
            i=i,
            eps=draws.eps,
            num_steps=num_steps,
            weight=weight,
        )
        return Examples(each, schedule(i / num_steps))

    return loss


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    rate: Callable[[Int[Array, ""], Int[Array, ""]], Scalar],
    ema_rate: Callable[[Int[Array, ""]], Scalar | float],
    mesh: Mesh,
    division: Division = _WHOLE,
    times: Times = "stratified",
    state_specs: PyTree = parallel.REPLICATED,
    teacher_specs: PyTree = parallel.REPLICATED,
    small_maps: bool = False,
) -> TrainStep:
    """Returns (state, round, batch) -> (state, metrics), mapped over the devices.

    Args:
      loss: per example; its mean over the global batch is minimised.
      optimizer: without a learning rate.
      rate: (step, num_updates) to the learning rate.
      ema_rate: step to the rate of the parameters' average, if the state keeps one.
      mesh: the devices; the batch is split over them. The state passed in is donated.
      division: clipping, and the parts in which a batch is differentiated.
      times: how the times of a batch are drawn.
      state_specs: `PartitionSpec` of the state.
      teacher_specs: `PartitionSpec` of the round's `teacher_params`.
      small_maps: as for `parallel.pmap`.
    """

    def step(
        state: TrainState, round_: Round, batch: Any
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(round_.key, state.step)
        draws = draw(key, batch.image, times, division.clip_groups)

        def mean_loss(params: Params, rows: Any) -> tuple[Scalar, losses.ByLogsnr]:
            examples = loss(state._replace(params=params), round_, *rows)
            return jnp.mean(examples.loss), losses.by_logsnr(*examples)

        (value, by_logsnr), gradient, norm = mean_gradient(
            mean_loss,
            state.params,
            (batch, draws),
            division,
            unroll=jax.default_backend() == "cpu",
        )
        learning_rate = rate(state.step, round_.num_updates)
        after = apply_gradient(
            state,
            gradient,
            optimizer,
            rate=learning_rate,
            ema_rate=ema_rate(state.step),
        )
        param_norm = optax.tree.norm(after.params)
        metrics = Metrics(value, norm, param_norm, learning_rate, by_logsnr)
        return _unless_broken(metrics, state, after), metrics

    constants: Any = (parallel.REPLICATED,) * 3
    return parallel.pmap(
        step,
        mesh,
        (state_specs, Round(teacher_specs, *constants), parallel.ROWS),
        (state_specs, parallel.REPLICATED),
        donate_argnums=(0,),
        num_groups=division.device_groups(mesh.size),
        small_maps=small_maps,
    )


def draw(
    key: Key[Array, ""],
    image: Float[Array, "b *d"],
    times: Times = "stratified",
    num_groups: int = 1,
) -> Draws:
    """Returns this device's rows of the random numbers of an update, inside `pmap`.

    Args:
      key: key of the update.
      image: this device's images.
      times: how u is drawn.
      num_groups: number of groups of consecutive rows; each has evenly spread u.
    """
    rows, size = parallel.rows_here(image.shape[0])
    time_key, noise_key, dropout_key = jax.random.split(key, 3)
    each_row = jax.vmap(jax.random.fold_in, (None, 0))
    noise = jax.vmap(lambda k: jax.random.normal(k, image.shape[1:], image.dtype))
    return Draws(
        _draw_u(time_key, rows, size, times, num_groups),
        noise(each_row(noise_key, rows)),
        each_row(dropout_key, rows),
    )


def _draw_u(
    key: Key[Array, ""],
    rows: Int[Array, " b"],
    size: int,
    times: Times,
    num_groups: int,
) -> Float[Array, " b"]:
    match times:
        case "stratified":
            # One uniform offset and an even grid: each u is uniform, and the batch
            # covers [0, 1) evenly, which lowers the variance of the loss. Neighbours on
            # the grid are of different groups.
            group, place = jnp.divmod(rows, size // num_groups)
            grid = (place * num_groups + group) / size
            return jnp.mod(jax.random.uniform(key) + grid, 1.0)
        case "independent":
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            return jax.vmap(jax.random.uniform)(keys)
    raise ValueError(f"times: {times!r} is not one of {get_args(Times)}")


def _in_range(denoise: Denoise, schedule: Schedule) -> Denoise:
    """Returns a denoiser that sees z beyond the end of its schedule as if from there.

    Such z are nearly pure noise at either level. At its own, x̂ of an output eps would
    have the error of eps times 1 / alpha, without bound.
    """
    return lambda z_t, logsnr_t: denoise(
        z_t, jnp.maximum(logsnr_t, schedule(jnp.ones((), logsnr_t.dtype)))
    )


def _dropout(draws: Draws, rate: float) -> Dropout | None:
    return Dropout(draws.dropout_keys, rate) if rate else None


def _unless_broken(
    metrics: Metrics, before: TrainState, after: TrainState
) -> TrainState:
    """Returns the new state, or the old one if the update is not finite."""
    finite = jnp.all(jnp.isfinite(jnp.hstack(jax.tree.leaves(metrics))))
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    return kept._replace(step=after.step)
