"""The plan of a run: its phases as data, with the kind and the cost of each.

| kind           | teacher                       | student starts from | steps         |
|----------------|-------------------------------|---------------------|---------------|
| base           | none; data, or a given one    | random, or given    | N_0           |
| reparameterize | given, of another network or  | random; the teacher | N_0           |
|                | output                        | if the nets match   |               |
| distill        | the model of the phase before | the teacher         | N_0 / ratio^k |

A run writes its plan to `plan.json`, for the report and other readers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from progdist.errors import InputError

MOST_STEPS = 2**24  # sampler steps; float32 holds all integers up to this
Kind = Literal["base", "reparameterize", "distill"]

# Passes of the trained network per update; a backward pass counts as two.
STUDENT_PASSES = 3


class Phase(NamedTuple):
    """One phase of the plan.

    Attributes:
      kind: kind of training.
      number: 0 for the base model, k for round k.
      num_steps: N, the number of network calls of the model it produces.
      num_updates: number of updates in the phase.
      first_update: number of updates in all earlier phases.
      batch_size: examples per update.
      passes: forward passes per update and example, including those of the teacher.
    """

    kind: Kind
    number: int
    num_steps: int
    num_updates: int
    first_update: int
    batch_size: int
    passes: int

    @property
    def end_update(self) -> int:
        """Number of updates in all phases up to and including this one."""
        return self.first_update + self.num_updates

    @property
    def title(self) -> str:
        """Human-readable name."""
        if self.kind != "distill":
            return "teacher" if self.kind == "base" else "reparameterize"
        return f"round {self.number}: {self.num_steps} step{'s'[: self.num_steps > 1]}"


def num_rounds(start_steps: int, end_steps: int, ratio: int) -> int:
    """Returns k with start_steps = end_steps ratio^k.

    Raises:
      ValueError: if no such k exists.
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


def make_plan(
    *,
    base_updates: int,
    base_batch_size: int,
    round_updates: int,
    round_batch_size: int,
    start_steps: int,
    end_steps: int,
    ratio: int = 2,
    long_rounds: int = 0,
    long_updates: int = 0,
    reparameterize: bool = False,
) -> tuple[Phase, ...]:
    """Returns the phases: the base phase, then the rounds down to end_steps.

    Args:
      base_updates: updates of phase 0; 0 with a given teacher that is taken as it is.
      base_batch_size: examples of each of them.
      round_updates: updates of a round.
      round_batch_size: examples of each of them.
      start_steps: N_0, the DDIM steps of the first teacher.
      end_steps: steps of the last student.
      ratio: teacher steps that one student step replaces.
      long_rounds: number of final rounds that take `long_updates` instead.
      long_updates: updates of each of those rounds.
      reparameterize: whether phase 0 trains towards a given teacher.

    Raises:
      ValueError: if start_steps is not end_steps times a power of the ratio.
    """
    rounds = num_rounds(start_steps, end_steps, ratio)
    kind: Kind = "reparameterize" if reparameterize else "base"
    passes = STUDENT_PASSES + reparameterize
    phases = [Phase(kind, 0, start_steps, base_updates, 0, base_batch_size, passes)]
    for k in range(1, rounds + 1):
        updates = long_updates if k > rounds - long_rounds else round_updates
        length = updates, phases[-1].end_update
        cost = round_batch_size, STUDENT_PASSES + ratio
        phases.append(Phase("distill", k, start_steps // ratio**k, *length, *cost))
    return tuple(phases)


def describe(phases: Sequence[Phase]) -> str:
    """Returns the plan in words: "64 → 1 steps in 6 rounds, 21,500 updates"."""
    first, last, rounds = phases[0].num_steps, phases[-1], len(phases) - 1
    in_rounds = f"{first} → {last.num_steps} steps in {rounds} round{'s'[: rounds > 1]}"
    steps = in_rounds if rounds else f"{first} steps, no rounds"
    return f"{steps}, {last.end_update:,} updates"


def to_json(phases: Sequence[Phase]) -> str:
    """Returns the plan as JSON, one phase per line."""
    rows = ",\n ".join(json.dumps(phase._asdict()) for phase in phases)
    return f"[{rows}]\n"


def read_plan(path: Path) -> tuple[Phase, ...]:
    """Reads a plan written by `to_json`; empty if there is no file.

    Raises:
      InputError: if it is not a plan.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe could block
            raise ValueError("not a regular file")
        phases = tuple(Phase(**row) for row in json.loads(path.read_bytes()))
        for kind, *numbers in phases:
            if kind not in get_args(Kind) or not all(type(n) is int for n in numbers):
                raise ValueError(f"a phase is {[kind, *numbers]}")
        return phases
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a plan ({error})") from None
