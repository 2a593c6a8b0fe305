"""The training loop."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from progdist.diffusion import logsnr_bins
from progdist.errors import NonFiniteError
from progdist.trainer.state import Tally, TrainState
from progdist.trainer.step import Metrics, Round, TrainStep


class Stopped(Exception):
    """The loop stopped on request; the state after update `step` is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after update {step}")
        self.step = step


_NOTHING = Tally()
_NUMBERS = "loss", "grad_norm", "param_norm", "learning_rate"


class Interval(NamedTuple):
    """Means over the updates since the last report.

    `skipped` counts the non-finite updates of the phase. `loss_by_logsnr` is the mean
    in each of `progdist.diffusion.logsnr_bins`, None for empty bins.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    skipped: int
    steps_per_second: float
    loss_by_logsnr: list[float | None]


class Pace(NamedTuple):
    """Intervals of the loop.

    Attributes:
      stop: number of updates of the phase.
      log_every: updates between reports, counted from the phase's start.
      save_every: updates between saves, counted in the same way.
      max_skipped: number of consecutive non-finite updates that may be skipped.
    """

    stop: int
    log_every: int
    save_every: int
    max_skipped: int = 0


class Hooks(NamedTuple):
    """Callbacks of the loop.

    Attributes:
      log: receives the means since the last call; also called at the last update.
      save: receives a step, its state, which is finite, and the sums for the next
        report; must not use them after it returns. Also called at the last update.
      stops: called at every update; whether to stop after it.
    """

    log: Callable[[Interval], None]
    save: Callable[[int, TrainState, Tally], None]
    stops: Callable[[], bool] = lambda: False


def run(
    train_step: TrainStep,
    state: TrainState,
    round_: Round,
    *,
    batches: Iterable[Any],
    pace: Pace,
    hooks: Hooks,
    tally: Tally = _NOTHING,
) -> TrainState:
    """Updates the state until it has done `pace.stop` updates.

    Args:
      train_step: the compiled step.
      state: the state to start from; its memory is reused.
      round_: the phase's constants.
      batches: one batch per update, starting at state.step.
      pace: intervals of reports and saves.
      hooks: the callbacks.
      tally: sums saved with the state.

    Raises:
      NonFiniteError: if the loss, gradient or parameters of an update are not finite,
        and neither were those of the pace.max_skipped updates before it. None of these
        updates changed the parameters.
      Stopped: after an update and its save, if hooks.stops requested it.
    """
    meter = _Meter(tally, pace.max_skipped)
    pending: Metrics | None = None
    # A CPU split into several devices deadlocks when steps are queued up on it.
    wait = jax.default_backend() == "cpu"
    for step, batch in enumerate(batches, start=int(state.step) + 1):
        state, metrics = train_step(state, round_, batch)
        # The metrics of an update are read after the next one is under way, so that an
        # accelerator never waits for the host.
        if pending is not None:
            meter.add(step - 1, pending)
        pending, stops = metrics, hooks.stops()
        logs = step % pace.log_every == 0 or step == pace.stop
        saves = step % pace.save_every == 0 or step == pace.stop or stops
        if wait or logs or saves:
            meter.add(step, jax.block_until_ready(metrics))
            pending = None
        if logs and meter.tally.num_updates:
            hooks.log(meter.interval(step))
        if saves:
            hooks.save(step, state, meter.tally)
        if stops:
            raise Stopped(step)
    return state


class _Meter:
    """Sums the metrics of the updates since the last interval."""

    def __init__(self, tally: Tally, max_skipped: int) -> None:
        self.tally = tally
        self._max_skipped = max_skipped
        # The first update may compile, and is timed only if it is alone.
        self._count, self._since = 0, time.perf_counter()
        self._after_first: float | None = None

    def add(self, step: int, metrics: Metrics) -> None:
        """Adds an update's metrics; raises after too many non-finite ones."""
        values: Metrics = jax.device_get(metrics)
        # The parts of a finite loss are finite.
        numbers = {name: getattr(values, name) for name in _NUMBERS}
        broken = [name for name, value in numbers.items() if not np.isfinite(value)]
        self._count += 1
        self._after_first = self._after_first or time.perf_counter()
        if broken:
            self._skip(step, f"{broken[0]} is {numbers[broken[0]]}")
            return
        sums = self.tally
        self.tally = sums._replace(
            skipped_in_a_row=0,
            num_updates=sums.num_updates + 1,
            loss=sums.loss + float(values.loss),
            grad_norm=sums.grad_norm + float(values.grad_norm),
            learning_rate=float(values.learning_rate),
            parts=_plus(sums.parts, values.by_logsnr.parts),
            shares=_plus(sums.shares, values.by_logsnr.shares),
        )

    def interval(self, step: int) -> Interval:
        """Returns the means since the last call, and starts the next interval."""
        sums, now = self.tally, time.perf_counter()
        speed = self._speed(now)
        self.tally = Tally(skipped=sums.skipped, skipped_in_a_row=sums.skipped_in_a_row)
        self._count, self._since = 0, now
        return Interval(
            step,
            sums.loss / sums.num_updates,
            sums.grad_norm / sums.num_updates,
            sums.learning_rate,
            sums.skipped,
            speed,
            logsnr_bins.means(sums.parts, sums.shares),
        )

    def _speed(self, now: float) -> float:
        """Returns the updates per second since the last interval."""
        if self._after_first and self._since < self._after_first and self._count > 1:
            return (self._count - 1) / (now - self._after_first)
        return self._count / (now - self._since)

    def _skip(self, step: int, reason: str) -> None:
        self.tally = self.tally._replace(
            skipped=self.tally.skipped + 1,
            skipped_in_a_row=self.tally.skipped_in_a_row + 1,
        )
        if self.tally.skipped_in_a_row > self._max_skipped:
            raise NonFiniteError(f"update {step}: {reason}")


def _plus(sums: Sequence[float], values: Any) -> tuple[float, ...]:
    """Adds in double precision."""
    return tuple((np.asarray(sums) + values).tolist())
