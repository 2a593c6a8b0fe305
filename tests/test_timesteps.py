"""Discrete noise levels: those of diffusers, met exactly by whole timesteps."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.diffusion import targets
from progdist.diffusion.prediction import from_output
from progdist.diffusion.schedules import Knots
from progdist.nets.timesteps import logsnr_of, timestep_of
from progdist.nets.types import Timesteps
from progdist.teachers.diffusers_config import Found, timesteps_of
from tests import diffusers_models as models
from tests.toy import quick

GOLDEN = np.load(Path(__file__).parent / "golden" / "diffusers.npz")
every_scheduler = pytest.mark.parametrize("name", models.SCHEDULERS)


def levels(name):
    """The noise levels that we read from a scheduler of diffusers."""
    found = Found(Path("x"), models.scheduler_config(name, "sample"))
    return logsnr_of(timesteps_of(found, None, "x"))


@every_scheduler
def test_levels_are_those_of_diffusers(name):
    alpha2 = 1 / (1 + np.exp(-levels(name)))
    np.testing.assert_allclose(alpha2, GOLDEN[f"alpha2/{name}"], atol=1e-6)


@every_scheduler
def test_whole_timesteps_at_the_knots(name):
    knots = levels(name)
    assert (np.diff(knots) < 0).all()
    at = timestep_of(jnp.asarray(knots, jnp.float32), knots)
    np.testing.assert_array_equal(at, np.arange(len(knots)))


@every_scheduler
@pytest.mark.parametrize("num_steps", [1, 4, 10, 50, 250, 1000])
def test_steps_that_divide_their_number_meet_whole_timesteps(name, num_steps):
    knots = levels(name)
    t = jnp.arange(1, num_steps + 1, dtype=jnp.float32) / num_steps
    at = timestep_of(Knots(tuple(knots.tolist()))(t), knots)
    every = len(knots) // num_steps
    np.testing.assert_array_equal(at, np.arange(every, len(knots) + 1, every) - 1)


@quick
@given(
    betas=st.lists(st.floats(1e-3, 0.3), min_size=2, max_size=40),
    share=st.floats(0.1, 0.9),
    data=st.data(),
)
def test_between_two_knots_lie_timesteps_between_theirs(betas, share, data):
    spec = Timesteps("trained", len(betas), trained_betas=tuple(betas))
    knots = logsnr_of(spec)
    k = data.draw(st.integers(0, len(knots) - 2))
    between = (1 - share) * knots[k] + share * knots[k + 1]
    inner, low, high = timestep_of(
        jnp.array([between, -30.0, 30.0], jnp.float32), knots
    ).tolist()
    assert k < inner < k + 1
    assert abs(inner - k - share) < 0.01
    assert (low, high) == (len(knots) - 1, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_timesteps": 0}, "num_timesteps=0: must be 1 to 10,000"),
        ({"num_timesteps": 10_001}, "num_timesteps=10001: must be 1 to"),
        ({"beta_start": 0.0}, "beta_start=0.0: must be above 0 and below 1"),
        ({"beta_end": float("nan")}, "beta_end=nan: must be above 0 and below 1"),
        ({"betas": "trained"}, "trained_betas: must be 1,000 numbers"),
        ({"num_timesteps": 1, "zero_terminal_snr": True}, "num_timesteps=1: must be 2"),
    ],
)
def test_bad_levels_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^timesteps.{message}"):
        Timesteps(**fields).check("timesteps.")


@pytest.mark.parametrize("num_timesteps", [2000, 4000, 10_000])
@pytest.mark.parametrize(
    "fields",
    [
        {"zero_terminal_snr": True},
        {"betas": "squaredcos_cap_v2"},
        {"beta_start": 0.1, "beta_end": 0.9},
    ],
    ids=["zero", "cosine", "large"],
)
def test_levels_below_the_limit_are_told_apart(num_timesteps, fields):
    """And steps through them meet whole timesteps."""
    knots = logsnr_of(Timesteps(num_timesteps=num_timesteps, **fields))
    assert (np.diff(np.float32((20, *knots))) < 0).all()
    assert -21 < knots[-1] <= -20
    t = jnp.arange(1, num_timesteps + 1, dtype=jnp.float32) / num_timesteps
    at = timestep_of(Knots(tuple(knots.tolist()))(t), knots)
    np.testing.assert_array_equal(at, np.arange(num_timesteps))


def test_betas_of_almost_nothing_are_told_apart():
    betas = (1e-12, 1e-12, 0.1, 1e-15, 0.999, 1e-9)
    knots = logsnr_of(Timesteps("trained", len(betas), trained_betas=betas))
    assert (np.diff(np.float32((20, *knots))) < 0).all()


def test_levels_that_lie_apart_are_those_of_the_betas():
    betas = np.linspace(1e-4, 0.02, 1000)
    log_alpha2 = np.cumsum(np.log1p(-betas))
    expected = log_alpha2 - np.log(-np.expm1(log_alpha2))
    np.testing.assert_array_equal(logsnr_of(Timesteps()), expected)


def test_a_target_is_finite_where_the_levels_are_beyond_the_limit():
    """Two steps of a teacher within the tail, which divide by their difference."""
    spec = Timesteps(num_timesteps=4000, zero_terminal_snr=True)
    schedule = Knots(tuple(logsnr_of(spec).tolist()))
    z, i = jnp.ones((1, 2, 2, 1)), jnp.array([2000])

    def teacher(z_t, logsnr_t, conditioning=None):
        return from_output(0.5 * z_t, z_t, logsnr_t, "v")

    target = targets.two_step_target(teacher, schedule, z, i=i, num_steps=2000)
    assert jnp.isfinite(target).all()
