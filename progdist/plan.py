"""The phases of a run, as data: which there are, and how long each is."""

from typing import NamedTuple


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
    if end_steps < 1 or ratio < 2:
        raise ValueError(
            f"end_steps={end_steps} and ratio={ratio}: must be at least 1 and 2"
        )
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
