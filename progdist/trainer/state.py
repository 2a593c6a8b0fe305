"""State of a phase: parameters, their moving average, optimiser moments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from progdist.checkpoint import CheckpointError
from progdist.config import Anneal
from progdist.diffusion import logsnr_bins
from progdist.model import Params
from progdist.parallel import REPLICATED

Scalar = Float[Array, ""]

_EMPTY = (0.0,) * len(logsnr_bins.CENTRES)


class TrainState(NamedTuple):
    """State that updates change.

    Attributes:
      step: updates done in this phase.
      params: the parameters.
      ema_params: their moving average; None without one.
      opt_state: Adam's moments.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params | None
    opt_state: optax.OptState


class Tally(NamedTuple):
    """Sums over the updates since the last row of metrics, on the host.

    Attributes:
      num_updates: updates in the sums, without the skipped ones.
      loss: sum of their losses.
      grad_norm: sum of their gradients' norms.
      learning_rate: learning rate of the last update.
      skipped: skipped updates of the whole phase.
      skipped_in_a_row: skipped updates right before the next one.
      parts: sums of the log-SNR bins' parts of the losses.
      shares: sums of the log-SNR bins' shares of the batches.
    """

    num_updates: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    parts: tuple[float, ...] = _EMPTY
    shares: tuple[float, ...] = _EMPTY


def tally_from_json(fields: dict[str, Any]) -> Tally:
    """Inverts `_asdict` after a passage through JSON, which has no tuples."""
    tally = Tally(**fields)
    return tally._replace(parts=tuple(tally.parts), shares=tuple(tally.shares))


class Snapshot(NamedTuple):
    """Everything that the rest of a run depends on.

    Attributes:
      phase: index of the phase.
      state: training state of the phase.
      teacher_params: parameters of the frozen teacher; () without one.
      tally: sums for the next row of metrics.
    """

    phase: int
    state: TrainState
    teacher_params: Params
    tally: Tally = Tally()


class Progress(NamedTuple):
    """Position of a snapshot in the plan.

    Attributes:
      phase: index of the phase.
      step: updates done in that phase.
      global_step: updates done in all phases.
      data: fingerprint of the training data; "" if it has none.
    """

    phase: int
    step: int
    global_step: int
    data: str = ""


def tree_of(snapshot: Snapshot) -> dict[str, Any]:
    """Returns the arrays of a snapshot, as a checkpoint names them."""
    return {
        "state": snapshot.state._asdict(),
        "teacher_params": snapshot.teacher_params,
    }


def facts_of(snapshot: Snapshot, global_step: int, data: str = "") -> dict[str, Any]:
    """Returns the rest of a snapshot, and its position, as plain data."""
    return {
        "phase": snapshot.phase,
        "step": int(snapshot.state.step),
        "global_step": global_step,
        "tally": snapshot.tally._asdict(),
        "data": data,
    }


def progress_of(facts: dict[str, Any]) -> Progress:
    """Returns the position recorded by `facts_of`.

    Raises:
      CheckpointError: if the facts are those of another version of the program.
    """
    progress = None
    try:
        progress = Progress(*(facts[field] for field in Progress._fields))
        tally = tally_from_json(facts["tally"])
        sums = [*tally.parts, *tally.shares]
        is_valid = (
            [type(value) for value in progress] == [int, int, int, str]
            and min(progress[:3]) >= 0
            and len(sums) == 2 * len(_EMPTY)
            and all(type(value) in (int, float) for value in [*tally[:-2], *sums])
        )
    except (KeyError, TypeError):
        is_valid = False
    if progress is None or not is_valid:
        raise CheckpointError(
            f"checkpoint {facts.get('global_step')}: its card is that of another "
            "version of progdist; resume with the version that wrote it"
        )
    return progress


def snapshot_of(tree: dict[str, Any], facts: dict[str, Any]) -> Snapshot:
    """Inverts `tree_of` and `facts_of`."""
    tally = tally_from_json(facts["tally"])
    state = TrainState(**tree["state"])
    return Snapshot(facts["phase"], state, tree["teacher_params"], tally)


def make_optimizer(
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Returns Adam without its learning rate, with decoupled weight decay.

    A weight decay of 0 disables it without changing the structure of the state.
    """
    return optax.chain(
        optax.identity(),  # holds a place that the states of version 0.2 have
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay),
    )


def init_state(
    params: Params, optimizer: optax.GradientTransformation, keep_ema: bool
) -> TrainState:
    """Returns the state at the start of a phase; it owns its memory."""
    ema_params = jax.tree.map(jnp.copy, params) if keep_ema else None
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, ema_params, optimizer.init(params))


def state_specs(
    params: Params, optimizer: optax.GradientTransformation, keep_ema: bool
) -> TrainState:
    """Returns the `PartitionSpec` of each leaf of a state, as for its parameters.

    Args:
      params: tree of `PartitionSpec`, one per parameter.
      optimizer: moments are split like the parameters; counters are replicated.
      keep_ema: whether the state has a moving average.
    """
    moments = jax.eval_shape(
        optimizer.init, jax.tree.map(lambda _: jnp.zeros(()), params)
    )
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, spec: spec,
        moments,
        params,
        transform_non_params=lambda _: REPLICATED,
    )
    step: Any = REPLICATED
    return TrainState(step, params, params if keep_ema else None, opt_state)


def sampling_params(state: TrainState) -> Params:
    """Returns the parameters to sample and teach with: the average, if any."""
    return state.params if state.ema_params is None else state.ema_params


def learning_rate(
    step: Int[Array, ""],
    num_updates: Int[Array, ""],
    *,
    peak: float,
    warmup_updates: int,
    anneal: Anneal,
) -> Scalar:
    """Returns the learning rate of update `step` = 0 … num_updates - 1.

    It rises linearly to `peak` over `warmup_updates`. If `anneal` is "linear", it is
    multiplied by a linear decay to 0 over the phase.
    """
    rate = jnp.float32(peak)
    if warmup_updates:
        rate *= jnp.minimum(1.0, (step + 1) / warmup_updates)
    if anneal == "linear":
        rate *= 1 - step / num_updates
    return rate


def averaging_rate(step: Int[Array, ""], *, decay: float, warmup: int) -> Scalar:
    """Returns 1 - decay_t of update `step`, with decay_t = min(decay, (1+t) / (w+t)).

    The average starts as the parameters after the first update: decay_0 = 0. With the
    warm-up w it never reaches back further than a share 1 / (w - 1) of the updates
    done; without (0), the average of a short phase is still close to its start, of
    which it keeps decay^t.
    """
    rate = jnp.float32(1 - decay)
    if warmup:
        rate = jnp.maximum(rate, (warmup - 1) / (warmup + step))
    return jnp.where(step == 0, 1.0, rate)


def apply_gradient(
    state: TrainState,
    gradient: Params,
    optimizer: optax.GradientTransformation,
    *,
    rate: Scalar,
    ema_rate: Scalar | float,
) -> TrainState:
    """Returns the state after one update.

    The average moves by `ema_rate` of its distance to the updated parameters.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        ema_params = optax.incremental_update(params, ema_params, ema_rate)
    return TrainState(state.step + 1, params, ema_params, opt_state)
