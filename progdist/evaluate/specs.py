"""Ways to sample the models of a run, as data."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from progdist.config import Evaluation
from progdist.diffusion import solvers
from progdist.diffusion.settings import SolverName
from progdist.plan import Phase


class SamplerSpec(NamedTuple):
    """A way to sample: the model of a phase, a number of steps, and a sampler.

    Attributes:
      phase: phase of the model.
      trained_steps: number of steps the model was trained for.
      num_steps: network calls per image.
      sampler: name of the sampler.
      gamma: noise of the ancestral sampler; None for the others.
    """

    phase: int
    trained_steps: int
    num_steps: int
    sampler: SolverName
    gamma: float | None = None

    @property
    def role(self) -> str:
        """Role of the model in the run."""
        return "student" if self.phase else "teacher"

    def __str__(self) -> str:
        """Returns the spec as part of a line of output."""
        gamma = "" if self.gamma is None else f" gamma {self.gamma:g}"
        return f"{self.role} {self.sampler}{gamma} N = {self.num_steps}"


def specs_of_phase(
    settings: Evaluation, phase: Phase, base: Phase
) -> list[SamplerSpec]:
    """Returns the ways in which a run samples after a phase.

    The student in its own number of steps by DDIM, and the base model in as many. Above
    the bound of the settings, students are left out and the base model takes the bound.
    """
    is_base = phase.number == 0
    if not (settings.enabled if is_base else settings.covers(phase.num_steps)):
        return []
    n = min(phase.num_steps, settings.max_steps or phase.num_steps)
    gammas = {"ancestral": settings.gamma}
    baselines = [
        SamplerSpec(0, base.num_steps, n, name, gammas.get(name))
        for name in settings.baselines
    ]
    return [SamplerSpec(phase.number, n, n, "ddim")] * (not is_base) + baselines


def passes_of_phase(settings: Evaluation, phase: Phase, base: Phase) -> int:
    """Returns the network passes of the evaluation after a phase, an image each."""
    batches = -(-settings.num_samples // settings.batch_size)
    calls = sum(spec.num_steps for spec in specs_of_phase(settings, phase, base))
    return batches * settings.batch_size * calls


def plan_specs(
    finished: dict[int, int],
    phases: Sequence[int],
    num_steps: Sequence[int],
    samplers: Sequence[SolverName],
    gammas: Sequence[float],
) -> list[SamplerSpec]:
    """Returns the ways to sample, grouped by phase.

    Args:
      finished: number of steps of each finished phase.
      phases: phases to sample; if empty, each number of steps selects its own round.
      num_steps: numbers of network calls; if empty, each model's own.
      samplers: names of samplers.
      gammas: noise levels of the ancestral sampler.

    Raises:
      ValueError: if a phase is not finished, a round is missing, or a number of
        network calls is not a multiple of a sampler's calls per step.
    """
    known = ", ".join(f"{p} (N = {n})" for p, n in finished.items()) or "none yet"
    for phase in phases:
        if phase not in finished:
            raise ValueError(f"--round={phase}: is not finished; there are {known}")
    phase_of = {n: phase for phase, n in finished.items()}
    for n in num_steps if not phases else ():
        if n not in phase_of:
            raise ValueError(
                f"--num_steps={n}: no such round; there are {known}, and "
                "--round=0 samples from the teacher in any number of steps"
            )
    if phases:
        pairs = [(p, n) for p in phases for n in num_steps or [finished[p]]]
    else:
        pairs = [(phase_of[n], n) for n in num_steps or finished.values()]
    for sampler, (_, n) in itertools.product(samplers, pairs):
        solvers.check_calls(sampler, n)
    return [
        SamplerSpec(phase, finished[phase], n, sampler, gamma)
        for phase, n in pairs
        for sampler in samplers
        for gamma in (gammas if sampler == "ancestral" else [None])
    ]
