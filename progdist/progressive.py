"""The state machine of progressive distillation (paper, algorithm 2).

| phase  | teacher                           | student starts from | steps         |
|--------|-----------------------------------|---------------------|---------------|
| 0      | none; data, or a teacher is given | random, or given    | N_0           |
| k >= 1 | the model of phase k - 1, frozen  | the teacher         | N_0 / ratio^k |

A phase ends when its updates are done. The plan is data; where a run is in it follows
from the newest checkpoint alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import optax

from progdist.state import Snapshot, init_state, sampling_params


class Phase(NamedTuple):
    """One phase of the plan.

    Attributes:
      number: 0 for the base model, k for round k.
      num_steps: N, the network calls of the model that it makes.
      num_updates: how long it trains.
      first_update: updates of all phases before it.
    """

    number: int
    num_steps: int
    num_updates: int
    first_update: int

    @property
    def end_update(self) -> int:
        """Updates of all phases up to and including it."""
        return self.first_update + self.num_updates

    @property
    def title(self) -> str:
        """What it does, for people."""
        if self.number == 0:
            return "teacher"
        return f"round {self.number}: {self.num_steps} step{'s'[: self.num_steps > 1]}"


def num_rounds(start_steps: int, end_steps: int, ratio: int) -> int:
    """Returns k with start_steps = end_steps ratio^k.

    Raises:
      ValueError: if there is no such k.
    """
    rounds, steps = 0, end_steps
    while steps < start_steps:
        rounds, steps = rounds + 1, steps * ratio
    if steps != start_steps:
        raise ValueError(
            f"start_steps={start_steps}: must be end_steps={end_steps} times a power "
            f"of ratio={ratio}"
        )
    return rounds


def plan(
    base_updates: int,
    round_updates: int,
    start_steps: int,
    end_steps: int,
    ratio: int = 2,
    long_rounds: int = 0,
    long_updates: int = 0,
) -> tuple[Phase, ...]:
    """Returns the phases: the base model's, then the rounds down to end_steps.

    Args:
      base_updates: of phase 0; 0 where a trained teacher is given.
      round_updates: of each round.
      start_steps: N_0, the DDIM steps of the first teacher.
      end_steps: of the last student.
      ratio: teacher steps that one student step replaces.
      long_rounds: how many of the last rounds take `long_updates` instead.
      long_updates: see there.

    Raises:
      ValueError: if start_steps is not end_steps times a power of the ratio.
    """
    rounds = num_rounds(start_steps, end_steps, ratio)
    phases = [Phase(0, start_steps, base_updates, 0)]
    for k in range(1, rounds + 1):
        updates = long_updates if k > rounds - long_rounds else round_updates
        num_steps = start_steps // ratio**k
        phases.append(Phase(k, num_steps, updates, phases[-1].end_update))
    return tuple(phases)


def advance(
    snapshot: Snapshot, optimizer: optax.GradientTransformation, keep_ema: bool
) -> Snapshot:
    """Returns the start of the next round: teacher and student ← the finished model.

    The optimiser starts afresh. The student is a copy, since a train step may reuse
    its memory.
    """
    teacher_params = sampling_params(snapshot.state)
    student = init_state(teacher_params, optimizer, keep_ema)
    return Snapshot(snapshot.phase + 1, student, teacher_params)


def run(
    phases: Sequence[Phase],
    snapshot: Snapshot,
    train: Callable[[Phase, Snapshot], Snapshot],
    finish: Callable[[Phase, Snapshot], None],
    begin_round: Callable[[Snapshot], Snapshot],
) -> Snapshot:
    """Runs the plan from the snapshot to its end.

    Args:
      phases: the plan.
      snapshot: the start of phase 0, or what was restored, at any step of any phase.
      train: carries a phase to its last update.
      finish: keeps, draws and measures the finished model; may run again for a phase
        after an interruption, and then must come to the same.
      begin_round: `advance`, bound to its settings.
    """
    for phase in phases[snapshot.phase :]:
        if snapshot.phase < phase.number:
            snapshot = begin_round(snapshot)
        snapshot = train(phase, snapshot)
        finish(phase, snapshot)
    return snapshot
