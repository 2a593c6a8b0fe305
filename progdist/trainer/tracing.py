"""Traces of a few updates by `jax.profiler`, for xprof and Perfetto."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from progdist.trainer.state import TrainState
from progdist.trainer.step import Metrics, Round, TrainStep


def progress(updates: range, num_done: int) -> str:
    """Returns what is lost of a trace of these updates once some are done; "" if none.

    Updates are numbered from 1 over all phases.
    """
    if not updates or updates[0] > num_done:
        return ""
    line = f"--profile: update {updates[0]} is already done; "
    rest = updates[num_done + 1 - updates[0] :]
    return line + (f"the trace starts at {rest[0]}" if rest else "no trace is written")


@contextlib.contextmanager
def traced(
    train_step: Any,
    updates: range,
    first: int,
    directory: Path,
    note: Callable[[str], None],
) -> Iterator[TrainStep]:
    """Yields the train step, which writes a trace of these updates.

    A trace that is cut short, as by a signal, is written as far as it goes.

    Args:
      train_step: the train step of a phase, from `jax.jit`.
      updates: numbers of the updates.
      first: number of the update of the first call.
      directory: directory of the traces, one more for each.
      note: receives the path, in a line.
    """
    updates = updates[max(0, first - updates.start) :]
    if not updates:
        yield train_step
        return
    numbers = itertools.count(first)
    with contextlib.ExitStack() as trace:

        def step(
            state: TrainState, round_: Round, batch: Any
        ) -> tuple[TrainState, Metrics]:
            number = next(numbers)
            if number == updates[0]:
                # The call below takes what is compiled here, so that the trace does
                # not hold a compilation.
                train_step.lower(state, round_, batch).compile()
                jax.block_until_ready((state, batch))
                trace.enter_context(jax.profiler.trace(directory))
                trace.callback(note, _where(updates, directory))
            with jax.profiler.StepTraceAnnotation("update", step_num=number):
                after = train_step(state, round_, batch)
            if number == updates[-1]:
                jax.block_until_ready(after)
                trace.close()
            return after

        yield step


def _where(updates: range, directory: Path) -> str:
    return (
        f"trace of updates {updates[0]} to {updates[-1]} in {directory}; open it with "
        f"xprof --logdir={directory} (pip install xprof), or its .trace.json.gz at "
        "ui.perfetto.dev"
    )
