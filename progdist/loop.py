"""The training loop. There is no other."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from progdist.state import TrainState
from progdist.step import Metrics, Round, TrainStep


class NonFiniteError(RuntimeError):
    """A loss, gradient or parameter became NaN or infinite."""


class Interval(NamedTuple):
    """What happened since the last report: means over its updates."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    steps_per_second: float


def run(
    train_step: TrainStep,
    state: TrainState,
    round_: Round,
    batches: Iterable[Any],
    stop: int,
    log_every: int,
    save_every: int,
    log: Callable[[Interval], None],
    save: Callable[[int, TrainState], None],
) -> TrainState:
    """Updates the state until it has done `stop` updates.

    Args:
      train_step: the compiled step.
      state: where to start; its memory is reused.
      round_: the phase's constants.
      batches: one for each update from state.step on.
      stop: number of updates of the phase.
      log_every: updates between calls of `log`, counted from the phase's start.
      save_every: the same for `save`.
      log: receives the means since the last call; called at the last update too.
      save: receives the step and its state, which is known to be finite, and must have
        read it when it returns; called at the last update too.

    Raises:
      NonFiniteError: at the first update whose loss, gradient or parameters are not
        finite; that state is never given to `save`.
    """
    meter = _Meter()
    pending: Metrics | None = None
    # A CPU split into several devices deadlocks when steps are queued up on it.
    wait = jax.default_backend() == "cpu"
    for step, batch in enumerate(batches, start=int(state.step) + 1):
        state, metrics = train_step(state, round_, batch)
        # The metrics of an update are read after the next one is under way, so that an
        # accelerator never waits for the host.
        if pending is not None:
            meter.add(step - 1, pending)
        pending = metrics
        due = step % log_every == 0, step % save_every == 0, step == stop
        if wait or any(due):
            meter.add(step, jax.block_until_ready(metrics))
            pending = None
        if due[0] or due[2]:
            log(meter.interval(step))
        if due[1] or due[2]:
            save(step, state)
    return state


class _Meter:
    """Sums the metrics of the updates since the last interval."""

    def __init__(self) -> None:
        self._rows: list[Metrics] = []
        self._since = time.perf_counter()

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes an update's metrics to the host and refuses what is not finite."""
        values = jax.tree.map(float, jax.device_get(metrics))
        for name, value in zip(Metrics._fields, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(f"update {step}: {name} is {value}")
        self._rows.append(values)

    def interval(self, step: int) -> Interval:
        """Returns the means since the last call, and starts the next interval."""
        count, now = len(self._rows), time.perf_counter()
        loss = sum(row.loss for row in self._rows) / count
        grad_norm = sum(row.grad_norm for row in self._rows) / count
        rate = float(self._rows[-1].learning_rate)
        speed = count / (now - self._since)
        self._rows, self._since = [], now
        return Interval(step, float(loss), float(grad_norm), rate, speed)
