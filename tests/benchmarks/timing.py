"""Times tasks in turns, so that a neighbour on the machine slows all of them alike."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from progdist.diffusion.solvers import Span
from progdist.sampling.draw import Sampler

Task = Callable[[], Any]


def alternate(*tasks: Task, most_turns: int = 7, seconds: float = 40) -> np.ndarray:
    """Seconds [turn, task, (wall, CPU)] of blocking tasks; a first turn is not counted.

    At least two turns are, and at most `most_turns` of as many as end in time.
    """
    turns = [_turn(tasks)]
    deadline = time.perf_counter() + seconds
    while len(turns) < 3 or (
        len(turns) <= most_turns and time.perf_counter() < deadline
    ):
        turns.append(_turn(tasks))
    return np.array(turns[1:])


def _turn(tasks: tuple[Task, ...]) -> list[list[float]]:
    seconds = []
    for task in tasks:
        wall, cpu = time.perf_counter(), time.process_time()
        task()
        seconds.append([time.perf_counter() - wall, time.process_time() - cpu])
    return seconds


def draw_batch(
    sampler: Sampler, params: Any, key: Any, indices: Any, label: Any, num_steps: Any
) -> Any:
    """Draws a batch in a single piece."""
    z, span = sampler.begin(key, indices), Span(num_steps, jnp.int32(0), num_steps)
    return sampler.advance(params, key, z, indices, label, span)
