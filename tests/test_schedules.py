"""Theorems of the noise schedules."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.diffusion.schedules import (
    Cosine,
    Karras,
    Knots,
    Linear,
    LinearBeta,
    LinearBetaDiscrete,
    alpha_sigma,
    describe,
    make_schedule,
    over_pixels,
)
from progdist.diffusion.settings import ScheduleName
from tests.toy import float64, quick, unchecked

pytestmark = pytest.mark.usefixtures("strict_dtypes")

NAMES = get_args(ScheduleName)
EPS32, EPS64 = 2.0**-23, 2.0**-52
logsnr_at = jax.jit(lambda schedule, t: schedule(t), static_argnums=0)
time_of = jax.jit(lambda schedule, logsnr: schedule.inverse(logsnr), static_argnums=0)
KNOTS = tuple(np.linspace(9.0, -10.0, 50).tolist())
every_schedule = pytest.mark.parametrize("name", NAMES)


def made(name):
    return make_schedule(name, KNOTS if name == "timesteps" else ())


@quick
@given(st.lists(st.floats(-30, 30, width=32), min_size=8, max_size=8))
def test_alpha_and_sigma_lie_on_the_unit_circle(values):
    logsnr = np.array(values, np.float32)
    alpha, sigma = alpha_sigma(jnp.asarray(logsnr))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=4 * EPS32)
    # and their ratio is the log-SNR that they came from
    np.testing.assert_allclose(
        2 * (np.log(alpha) - np.log(sigma)), logsnr, atol=4 * EPS32 * 30
    )


@every_schedule
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_logsnr_falls_strictly(name, wide):
    with jax.enable_x64(wide):
        logsnr = np.asarray(logsnr_at(made(name), jnp.linspace(0.0, 1.0, 4097)))
    assert logsnr.dtype == (np.float64 if wide else np.float32)
    assert np.all(np.diff(logsnr) < 0)
    assert np.all(np.isfinite(logsnr))


@every_schedule
@quick
@given(t=st.floats(0, 1), gap=st.floats(1e-9, 1))
@float64
def test_a_later_time_is_noisier(name, t, gap):
    schedule, later = made(name), min(t + gap + 1e-7, 1.0)
    earlier = later - gap if later == 1.0 else t
    logsnr = np.asarray(logsnr_at(schedule, jnp.array([max(earlier, 0.0), later])))
    assert logsnr[0] > logsnr[1]


@every_schedule
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_inverse_returns_the_time(name, wide):
    # |dt/dlogsnr| * |logsnr| <= 20 / (2 pi) ... 3.2 over all schedules, and logsnr
    # carries a few roundings: 16 of them bound the error in t.
    with jax.enable_x64(wide):
        schedule, t = made(name), jnp.linspace(0.0, 1.0, 1025)
        back = time_of(schedule, logsnr_at(schedule, t))
    # LinearBeta is held at its largest log-SNR, which it reaches at t = 2e-8.
    held = 2.1e-8 if name == "linear_beta" else 0.0
    np.testing.assert_allclose(back, t, atol=16 * (EPS64 if wide else EPS32) + held)


@every_schedule
@quick
@given(share=st.floats(0, 1))
@float64
def test_inverse_finds_the_time_of_every_logsnr(name, share):
    schedule = made(name)
    end, start = (float(logsnr_at(schedule, jnp.array(t))) for t in (1.0, 0.0))
    logsnr = end + share * (start - end)
    t = time_of(schedule, jnp.array(logsnr))
    assert -EPS64 <= t <= 1 + EPS64
    # At the ends of the cosine |dlogsnr/dt| is 7e4: a rounding of t becomes 1e-11.
    np.testing.assert_allclose(logsnr_at(schedule, t), logsnr, atol=1e-10)


@pytest.mark.parametrize("cls", [Cosine, Linear])
@pytest.mark.parametrize("ends", [(-20.0, 20.0), (-12.0, 16.0)])
@float64
def test_the_ends_are_the_ones_asked_for(cls, ends):
    logsnr = cls(logsnr_min=ends[0], logsnr_max=ends[1])(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(logsnr, ends[::-1], atol=1e-10)


@pytest.mark.parametrize("cls", [LinearBeta, LinearBetaDiscrete])
def test_beta_schedules_start_at_the_largest_logsnr(cls):
    assert float(cls(logsnr_max=15.0)(jnp.float32(0.0))) == pytest.approx(15.0)


@float64
def test_cosine_golden_values():
    """Those of the authors' published schedule, run in float64."""
    t = jnp.array([0.0, 1 / 1024, 0.125, 0.25, 0.5, 1.0])
    expected = [20.0, 12.901556, 3.229426, 1.762619, 0.0, -20.0]
    np.testing.assert_allclose(Cosine()(t), expected, atol=5.1e-7)


@float64
def test_cosine_angle_moves_evenly():
    # phi = atan2(sigma, alpha) = a t + b with b = atan(e^-10), a = atan(e^10) - b
    t = jnp.linspace(0.0, 1.0, 257)
    alpha, sigma = alpha_sigma(Cosine()(t))
    b = np.arctan(np.exp(-10))
    angle = (np.arctan(np.exp(10)) - b) * np.asarray(t) + b
    np.testing.assert_allclose(np.arctan2(sigma, alpha), angle, atol=1e-14)


def test_cosine_keeps_its_digits_near_both_ends_in_float32():
    t = np.concatenate([np.geomspace(1e-6, 0.5, 200), 1 - np.geomspace(1e-6, 0.5, 200)])
    t = t.astype(np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(Cosine()(jnp.asarray(t, jnp.float64)))
    # a rounding of a number of size 20, and a few of the tangent's argument
    atol = EPS32 * (20 / 2 + 2 * 4)
    np.testing.assert_allclose(Cosine()(jnp.asarray(t)), exact, rtol=0, atol=atol)


@every_schedule
@float64
def test_the_derivative_is_the_slope(name):
    # t = 0.5 is where the cosine's two branches meet.
    schedule, h = made(name), 1e-6
    t = jnp.array([0.1003, 0.25004, 0.5, 0.7503, 0.99])
    if name in ("linear_beta_discrete", "timesteps"):  # the slope jumps at the knots
        t = t + 2e-4
    _, slope = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
    central = (schedule(t + h) - schedule(t - h)) / (2 * h)
    np.testing.assert_allclose(slope, central, rtol=1e-6)


@float64
def test_discrete_schedule_is_the_ddpm_product():
    product, logsnr = 1.0, []
    for k in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * k / 999
        product *= 1 - beta
        logsnr.append(np.log(product / (1 - product)))
    assert product == pytest.approx(4.0358e-5, rel=1e-4)  # alpha_bar_T as published
    t = (jnp.arange(1000) + 1) / 1000
    np.testing.assert_allclose(LinearBetaDiscrete()(t), logsnr, rtol=1e-11, atol=1e-11)


@float64
def test_continuous_beta_schedule_is_the_limit_of_the_discrete_one():
    # The sums differ from the integral by a share 1/k, and log(1 - beta) from -beta by
    # beta / 2 <= 0.01; with T ten times larger the second falls to 0.001.
    gaps = []
    for num, allowed in [(1000, 0.012), (10_000, 0.0022)]:
        k = jnp.arange(num // 2, num + 1)
        fine = LinearBetaDiscrete(num, 0.1 / num, 20.0 / num)
        log_alpha2 = jax.nn.log_sigmoid(fine(k / num))
        limit = jax.nn.log_sigmoid(LinearBeta()(k / num))
        gaps.append(float(jnp.max(jnp.abs(log_alpha2 / limit - 1))))
        assert gaps[-1] < allowed
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)


@float64
def test_linear_beta_integrates_beta():
    t = jnp.linspace(0.01, 1.0, 100)
    log_alpha2 = jax.nn.log_sigmoid(LinearBeta()(t))
    expected = [
        -np.trapezoid(np.linspace(0.1, 0.1 + 19.9 * u, 3), dx=u / 2)
        for u in np.asarray(t)
    ]
    np.testing.assert_allclose(log_alpha2, expected, rtol=1e-12)


@float64
def test_linear_is_linear():
    np.testing.assert_allclose(Linear()(jnp.array([0.25, 0.5])), [10, 0], atol=1e-13)


@float64
def test_karras_noise_levels_are_the_published_ones():
    """Karras et al. (2022), eq. 5, from sigma_max to sigma_min in 18 levels."""
    i, ends = np.arange(18), (80 ** (1 / 7), 0.002 ** (1 / 7))
    sigma = (ends[0] + i / 17 * (ends[1] - ends[0])) ** 7
    logsnr = Karras()(jnp.asarray(1 - i / 17))
    np.testing.assert_allclose(np.exp(-logsnr / 2), sigma, rtol=1e-12)


def test_knots_are_the_levels_of_equal_times():
    t = jnp.arange(51, dtype=jnp.float32) / 50
    np.testing.assert_allclose(Knots(KNOTS)(t), (20.0, *KNOTS), rtol=2e-6)


def test_a_network_without_timesteps_has_no_schedule_of_them():
    with pytest.raises(ValueError, match="the network has no timesteps"):
        make_schedule("timesteps")


def test_schedules_are_values():
    assert Cosine() == Cosine()
    assert hash(make_schedule("linear_beta")) == hash(LinearBeta())


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="schedule: 'sine' is not one of"):
        unchecked(make_schedule)("sine")


def test_over_pixels_adds_the_pixel_axes():
    assert over_pixels(jnp.zeros(3), jnp.zeros((3, 4, 4, 1))).shape == (3, 1, 1, 1)


@every_schedule
def test_a_published_schedule_is_described_by_its_name(name):
    assert describe(made(name)) == name


def test_schedules_of_other_constants_have_other_descriptions():
    assert describe(LinearBeta(beta_max=10.0)) == "linear_beta(beta_max=10)"
    assert describe(Cosine(-15.0, 15.0)) == "cosine(logsnr_min=-15, logsnr_max=15)"


@pytest.mark.parametrize("cls", [Cosine, Linear])
@float64
def test_inverse_returns_the_time_between_any_two_ends(cls):
    schedule, t = cls(logsnr_min=-12.0, logsnr_max=16.0), jnp.linspace(0.0, 1.0, 65)
    np.testing.assert_allclose(schedule.inverse(schedule(t)), t, atol=1e-12)
