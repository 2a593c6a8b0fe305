"""Samplers by name, with one interface: noise to images in N network calls.

DDIM and the ancestral sampler clip x̂ at every step, unless told otherwise. Euler, Heun
and RK4 solve the probability-flow ODE without clipping, in N, N / 2 and N / 4 steps.
All can do a part of the N calls, so that a long computation can be split into short
ones.
"""

from collections.abc import Callable
from typing import NamedTuple, get_args

from jaxtyping import Array, Float, Int, Key

from progdist.diffusion import ode, samplers
from progdist.diffusion.prediction import Denoise
from progdist.diffusion.schedules import Schedule
from progdist.diffusion.settings import Clip, SolverName


class Span(NamedTuple):
    """A part of the network calls, from the state after `first` to that after `last`.

    All are multiples of `calls_per_step`. The state after 0 calls is noise, and that
    after `num_calls` the images.
    """

    num_calls: int | Int[Array, ""]
    first: int | Int[Array, ""]
    last: int | Int[Array, ""]


Solver = Callable[[Denoise, Schedule, Float[Array, "b *d"], Span], Float[Array, "b *d"]]
"""Maps (denoise, schedule, z, span) to the state at the end of the span."""


def calls_per_step(name: SolverName) -> int:
    """Returns the number of network calls per step."""
    return {"heun": 2, "rk4": 4}.get(name, 1)


def check_calls(name: SolverName, num_calls: int) -> None:
    """Refuses a number of network calls that is not a whole number of steps.

    Raises:
      ValueError: if it is not a multiple of `calls_per_step`.
    """
    calls = calls_per_step(name)
    if num_calls % calls:
        raise ValueError(
            f"--sampler={name}: makes {calls} network calls per step, and N = "
            f"{num_calls} is not a multiple of it"
        )


def make_solver(
    name: SolverName,
    *,
    keys: Key[Array, " b"],
    gamma: float,
    clip: Clip = "recompute",
) -> Solver:
    """Returns the named solver.

    Args:
      name: one of `SolverName`.
      keys: one key per image, for the noise of the ancestral sampler.
      gamma: see `samplers.make_ancestral_step`.
      clip: see `prediction.clip`; Euler, Heun and RK4 never clip.

    Raises:
      ValueError: if `name` is not one of `SolverName`.
    """
    match name:
        case "ddim":
            return _with_steps(samplers.ddim_step, clip)
        case "ancestral":
            return _with_steps(samplers.make_ancestral_step(keys, gamma), clip)
        case "euler" | "heun" | "rk4":
            return _along_ode(name)
    raise ValueError(f"sampler: {name!r} is not one of {get_args(SolverName)}")


def _with_steps(step: samplers.Step, clip: Clip) -> Solver:
    def solve(denoise: Denoise, schedule: Schedule, z: Array, span: Span) -> Array:
        num_steps, first, last = span
        return samplers.sample(
            denoise,
            schedule,
            z,
            num_steps=num_steps,
            first=first,
            last=last,
            step=step,
            clip=clip,
        )

    return solve


def _along_ode(method: ode.Method) -> Solver:
    def solve(denoise: Denoise, schedule: Schedule, z: Array, span: Span) -> Array:
        num_steps, first, last = (n // calls_per_step(method) for n in span)
        return ode.integrate(
            denoise,
            schedule,
            z,
            num_steps=num_steps,
            first=first,
            last=last,
            method=method,
        ).z

    return solve
