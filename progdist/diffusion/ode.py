"""The probability-flow ODE and its integrators (paper, section 2).

dz/dt = f z - g²/2 score, with f = d log(alpha)/dt, g² = d(sigma²)/dt - 2 f sigma² and
score = (alpha x̂ - z) / sigma². Written in logsnr' = d logsnr/dt these are
f = sigma² logsnr' / 2 and g² = -sigma² logsnr', and the whole right-hand side is
dz/dt = -alpha sigma logsnr' v̂ / 2. With the cosine schedule this is a constant times
v̂, while the three separate terms grow without bound towards both ends.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from progdist.diffusion.prediction import Denoise
from progdist.diffusion.schedules import Schedule, alpha_sigma, over_pixels

Method = Literal["euler", "heun", "rk4"]
Time = Float[Array, ""]
Velocity = Callable[[Time, Float[Array, "b *d"]], Float[Array, "b *d"]]


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: stage times c, stages a, weights b."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


class Solution(NamedTuple):
    """z at the end, t = 0, and the number of network calls."""

    z: Float[Array, "b *d"]
    num_calls: int | Int[Array, ""]


def drift(schedule: Schedule, t: Time) -> Time:
    """Returns f(t) = d log(alpha)/dt = sigma² logsnr' / 2."""
    logsnr, slope = _with_slope(schedule, t)
    return 0.5 * jax.nn.sigmoid(-logsnr) * slope


def squared_diffusion(schedule: Schedule, t: Time) -> Time:
    """Returns g²(t) = d(sigma²)/dt - 2 f sigma² = -sigma² logsnr'."""
    logsnr, slope = _with_slope(schedule, t)
    return -jax.nn.sigmoid(-logsnr) * slope


def score(
    x: Float[Array, "b *d"], z_t: Float[Array, "b *d"], logsnr_t: Float[Array, " b"]
) -> Float[Array, "b *d"]:
    """Returns the score estimate (alpha x̂ - z_t) / sigma²."""
    alpha, sigma = alpha_sigma(over_pixels(logsnr_t, z_t))
    return (alpha * x - z_t) / sigma**2


def velocity(denoise: Denoise, schedule: Schedule) -> Velocity:
    """Returns (t, z) -> dz/dt = -alpha sigma logsnr' v̂ / 2; one network call each."""

    def dz_dt(t: Time, z: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        logsnr, slope = _with_slope(schedule, t)
        alpha, sigma = alpha_sigma(logsnr)
        v = denoise(z, jnp.broadcast_to(logsnr, z.shape[:1])).v
        return -0.5 * alpha * sigma * slope * v

    return dz_dt


def tableau(method: Method) -> Tableau:
    """Returns the method's coefficients.

    Raises:
      ValueError: if `method` is not one of `Method`.
    """
    match method:
        case "euler":
            return Tableau((0.0,), ((),), (1.0,))
        case "heun":
            return Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5))
        case "rk4":
            return Tableau(
                (0.0, 0.5, 0.5, 1.0),
                ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
                (1 / 6, 1 / 3, 1 / 3, 1 / 6),
            )
    raise ValueError(f"method: {method!r} is not one of {get_args(Method)}")


def integrate(
    denoise: Denoise,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    *,
    num_steps: int | Int[Array, ""],
    method: Method,
    first: int | Int[Array, ""] = 0,
    last: int | Int[Array, ""] | None = None,
) -> Solution:
    """Solves the ODE from t = 1 to 0 in `num_steps` equal steps, without clipping.

    Costs num_steps times the number of stages in network calls: 1 stage for Euler, 2
    for Heun, 4 for RK4. With `first` and `last` it solves a part: from the state after
    `first` steps to that after `last`.
    """
    dz_dt, rule = velocity(denoise, schedule), tableau(method)
    end = num_steps if last is None else last

    def body(j: Int[Array, ""], z: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        h = -1.0 / jnp.asarray(num_steps, z.dtype)
        slopes: list[Array] = []
        for c, row in zip(rule.c, rule.a, strict=True):
            inner = sum((h * a * k for a, k in zip(row, slopes, strict=True)), z)
            slopes.append(dz_dt(1 + h * (j + c), inner))
        return z + h * sum(b * k for b, k in zip(rule.b, slopes, strict=True))

    z = jax.lax.fori_loop(first, end, body, z_1)
    return Solution(z, (end - first) * len(rule.b))


def integrate_adaptive(
    denoise: Denoise,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Solution:
    """Solves the ODE from t = 1 to 0 with diffrax's Tsit5 and PID step-size control.

    All images share a step size, so an image depends on the rest of the batch within
    the tolerance. Needs the extra `ode`.
    """
    import diffrax  # optional, and slow to import

    dz_dt = velocity(denoise, schedule)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, _: dz_dt(jnp.asarray(t, z.dtype), z)),
        diffrax.Tsit5(),
        t0=1.0,
        t1=0.0,
        dt0=-0.01,  # set, since a search for it would cost network calls
        y0=z_1,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=None,
        adjoint=diffrax.ForwardMode(),
    )
    assert solution.ys is not None  # y(t1) is always saved
    return Solution(solution.ys[0], _tsit5_calls(solution.stats["num_steps"]))


def _tsit5_calls(num_steps: Int[Array, ""]) -> Int[Array, ""]:
    """Returns the number of calls: one, then six per step, including rejected steps.

    The seventh stage of a step is the first stage of the next.
    """
    return 6 * num_steps + 1


def _with_slope(schedule: Schedule, t: Time) -> tuple[Time, Time]:
    """Returns logsnr and d logsnr / dt at t."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))
