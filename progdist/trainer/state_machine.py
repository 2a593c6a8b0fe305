"""The state machine of progressive distillation (paper, algorithm 2).

restore -> (train -> keep, evaluate -> swap: teacher <- student, N <- N / ratio)*

A phase ends when its updates are done. The plan (`progdist.plan`) is data; the position
of a run in it follows from the newest checkpoint alone.
"""

from collections.abc import Callable, Sequence

import optax

from progdist.plan import Phase
from progdist.trainer.state import Snapshot, init_state, sampling_params


def swap(
    snapshot: Snapshot, optimizer: optax.GradientTransformation, *, keep_ema: bool
) -> Snapshot:
    """Returns the start of the next round: teacher and student ← the finished model.

    The optimiser state is reset. The student is a copy, since a train step may reuse
    its memory.
    """
    teacher_params = sampling_params(snapshot.state)
    student = init_state(teacher_params, optimizer, keep_ema)
    return Snapshot(snapshot.phase + 1, student, teacher_params)


def run(
    phases: Sequence[Phase],
    snapshot: Snapshot,
    *,
    train: Callable[[Phase, Snapshot], Snapshot],
    finish: Callable[[Phase, Snapshot], None],
    begin_round: Callable[[Snapshot], Snapshot],
) -> Snapshot:
    """Runs the rest of the plan from the snapshot.

    Args:
      phases: the plan.
      snapshot: start of phase 0, or a restored one at any step of any phase.
      train: trains a phase to its last update.
      finish: saves and evaluates the finished model; may run again for a phase after an
        interruption, with the same result.
      begin_round: `swap`, bound to its settings.
    """
    for phase in phases[snapshot.phase :]:
        if snapshot.phase < phase.number:
            snapshot = begin_round(snapshot)
        snapshot = train(phase, snapshot)
        finish(phase, snapshot)
    return snapshot
