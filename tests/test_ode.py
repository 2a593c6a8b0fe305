"""The probability-flow ODE against its definition, its solvers against closed forms."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.diffusion import ode
from progdist.diffusion.samplers import sample, trajectory
from progdist.diffusion.schedules import Cosine, make_schedule
from tests import toy
from tests.toy import Counted, alpha_sigma, float64, unchecked

pytestmark = pytest.mark.usefixtures("strict_dtypes")

MEAN, STD = 0.2, 0.5
NAMES = ["cosine", "linear", "linear_beta", "linear_beta_discrete"]
every_schedule = pytest.mark.parametrize("name", NAMES)
# 1/2 is where the cosine's branches meet; none is a knot of the discrete schedule
TIMES = pytest.mark.parametrize("t", [0.1003, 0.5, 0.8753])


def _off_knots(name, t):
    return t + 3e-4 if name == "linear_beta_discrete" else t


def _differences(schedule, t, h=1e-6):
    """d log(alpha)/dt and d(sigma²)/dt, as central differences."""
    logsnr = np.asarray(schedule(jnp.array([t - h, t + h])))
    log_alpha, sigma2 = -np.log1p(np.exp(-logsnr)) / 2, 1 / (1 + np.exp(logsnr))
    return np.diff(log_alpha)[0] / (2 * h), np.diff(sigma2)[0] / (2 * h)


@TIMES
@every_schedule
@float64
def test_drift_and_diffusion_are_the_derivatives(name, t):
    schedule, t = make_schedule(name), _off_knots(name, t)
    f, dsigma2 = _differences(schedule, t)
    _, sigma = alpha_sigma(schedule(jnp.array(t)))
    np.testing.assert_allclose(ode.drift(schedule, jnp.array(t)), f, rtol=1e-6)
    np.testing.assert_allclose(
        ode.squared_diffusion(schedule, jnp.array(t)),
        dsigma2 - 2 * f * sigma**2,
        rtol=1e-6,
    )


@TIMES
@float64
def test_drift_and_diffusion_of_the_cosine_in_closed_form(t):
    # phi = a t + b: f = -a tan(phi), g² = 2 a tan(phi)
    b = np.arctan(np.exp(-10))
    a = np.arctan(np.exp(10)) - b
    np.testing.assert_allclose(
        [
            ode.drift(Cosine(), jnp.array(t)),
            ode.squared_diffusion(Cosine(), jnp.array(t)),
        ],
        [-a * np.tan(a * t + b), 2 * a * np.tan(a * t + b)],
        rtol=1e-12,
    )


@TIMES
@float64
def test_diffusion_of_the_linear_beta_schedule_is_beta(t):
    beta = 0.1 + 19.9 * t
    schedule, at = make_schedule("linear_beta"), jnp.array(t)
    np.testing.assert_allclose(ode.squared_diffusion(schedule, at), beta, rtol=1e-12)
    np.testing.assert_allclose(ode.drift(schedule, at), -beta / 2, rtol=1e-12)


@pytest.mark.parametrize("logsnr", [-6.0, 0.0, 6.0])
@float64
def test_score_is_the_gradient_of_the_log_density(logsnr):
    z, at = jnp.linspace(-2.0, 2.0, 5)[None], jnp.array([logsnr])
    alpha, sigma = alpha_sigma(logsnr)
    x = toy.gaussian(MEAN, STD)(z, at).x
    expected = -(z - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    np.testing.assert_allclose(ode.score(x, z, at), expected, rtol=1e-10)


@TIMES
@every_schedule
@float64
def test_velocity_is_the_published_right_hand_side(name, t):
    # f z - g²/2 score, with f and g² from finite differences
    schedule, t = make_schedule(name), _off_knots(name, t)
    f, dsigma2 = _differences(schedule, t)
    z, logsnr = jnp.linspace(-2.0, 2.0, 5)[None], float(schedule(jnp.array(t)))
    alpha, sigma = alpha_sigma(logsnr)
    denoise = toy.two_modes(0.5, 0.2)
    x = np.asarray(denoise(z, jnp.array([logsnr])).x)
    score = (alpha * x - z) / sigma**2
    expected = f * z - (dsigma2 - 2 * f * sigma**2) / 2 * score
    actual = ode.velocity(denoise, schedule)(jnp.array(t), z)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "order", "steps"),
    [("euler", 1, (32, 64, 128)), ("heun", 2, (16, 32, 64)), ("rk4", 4, (8, 16, 32))],
)
@float64
def test_integrators_have_their_order_and_cost(method, order, steps):
    z_1, denoise = jnp.linspace(-2.0, 2.0, 5)[None], Counted(toy.gaussian(MEAN, STD))
    exact = toy.gaussian_flow(z_1, -20.0, 20.0, MEAN, STD)
    solve = jax.jit(
        lambda n: ode.integrate(denoise, Cosine(), z_1, num_steps=n, method=method)
    )
    errors = []
    for num_steps in steps:
        calls, solution = denoise.during(lambda n=num_steps: solve(n))
        assert calls == solution.num_calls == num_steps * {1: 1, 2: 2, 4: 4}[order]
        errors.append(np.abs(solution.z - exact).max())
    np.testing.assert_allclose(toy.observed_orders(errors), order, atol=0.25)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_a_tableau_is_consistent(method):
    rule = ode.tableau(method)
    assert sum(rule.b) == pytest.approx(1)
    for c, row in zip(rule.c, rule.a, strict=True):
        assert sum(row) == pytest.approx(c)


@every_schedule
def test_the_last_stage_is_finite_in_float32(name):
    # It is at t = 0, or beside it: N (1/N) is not 1 in float32 for every N.
    z_1, denoise = jnp.linspace(-2.0, 2.0, 5)[None], toy.gaussian(MEAN, STD)
    schedule = make_schedule(name)
    solve = jax.jit(
        lambda n: ode.integrate(denoise, schedule, z_1, num_steps=n, method="rk4").z
    )
    for num_steps in [1, 7, 41, 47, 55]:
        assert np.isfinite(solve(num_steps)).all()


@pytest.mark.parametrize(("problem", "rtol"), [("gaussian", 1e-4), ("two_modes", 1e-5)])
@float64
def test_the_adaptive_solver_counts_its_calls(problem, rtol, monkeypatch):
    solve, steps = diffrax.diffeqsolve, {}

    def spying(*args, **kwargs):
        solution = solve(*args, **kwargs)
        steps.update(solution.stats)
        return solution

    monkeypatch.setattr(diffrax, "diffeqsolve", spying)
    exact = (
        toy.gaussian(MEAN, STD) if problem == "gaussian" else toy.two_modes(0.9, 0.02)
    )
    z_1, denoise = jnp.linspace(-2.0, 2.0, 5)[None], Counted(exact)
    calls, solution = denoise.during(
        lambda: ode.integrate_adaptive(denoise, Cosine(), z_1, rtol=rtol, atol=rtol)
    )
    assert calls == solution.num_calls
    if problem == "two_modes":  # whose sharp turn makes some steps fail
        assert steps["num_rejected_steps"] > 0


@float64
def test_the_adaptive_solver_meets_its_tolerance():
    rtol, z_1 = 1e-6, jnp.linspace(-2.0, 2.0, 5)[None]
    denoise = toy.gaussian(MEAN, STD)
    z = ode.integrate_adaptive(denoise, Cosine(), z_1, rtol=rtol, atol=rtol).z
    # local errors of size rtol (1 + |z|) add up over a few tens of steps
    exact = toy.gaussian_flow(z_1, -20.0, 20.0, MEAN, STD)
    np.testing.assert_allclose(z, exact, rtol=10 * rtol, atol=10 * rtol)


def test_the_adaptive_solver_works_in_float32():
    z_1, denoise = jnp.linspace(-2.0, 2.0, 5)[None], toy.gaussian(MEAN, STD)
    z = ode.integrate_adaptive(denoise, Cosine(), z_1).z
    assert z.dtype == np.float32
    exact = toy.gaussian_flow(z_1, -20.0, 20.0, MEAN, STD)
    np.testing.assert_allclose(z, exact, atol=1e-3)


@float64
def test_ddim_is_euler_in_the_right_variables():
    # With u = z / alpha and rho = sigma / alpha the ODE is du/drho = eps: one explicit
    # Euler step of it is one DDIM step.
    num_steps, z_1, denoise = 6, jnp.array([[-1.5, 0.4, 2.0]]), toy.two_modes(0.5, 0.2)
    path = trajectory(denoise, Cosine(), z_1, num_steps=num_steps, clip="none")
    logsnr = np.asarray(Cosine()(path.t))
    alpha, sigma = alpha_sigma(logsnr)
    u, rho = np.asarray(path.z)[:, 0] / alpha[:, None], sigma / alpha
    for j in range(num_steps - 1):
        eps = denoise(jnp.asarray(alpha[j] * u[j])[None], jnp.array([logsnr[j]])).eps[0]
        euler = u[j] + (rho[j + 1] - rho[j]) * eps
        np.testing.assert_allclose(u[j + 1], euler, rtol=1e-9)


@float64
def test_ddim_and_the_ode_share_their_limit():
    z_1, denoise = jnp.array([[-1.5, 0.4, 2.0]]), toy.gaussian(MEAN, STD)
    euler = jax.jit(
        lambda n: ode.integrate(denoise, Cosine(), z_1, num_steps=n, method="euler").z
    )
    ddim = jax.jit(lambda n: sample(denoise, Cosine(), z_1, num_steps=n, clip="none"))
    gaps = [np.abs(euler(n) - ddim(n)).max() for n in (64, 128, 256, 512)]
    np.testing.assert_allclose(toy.observed_orders(gaps), 1.0, atol=0.1)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method: 'midpoint' is not one of"):
        unchecked(ode.tableau)("midpoint")
