"""Theorems of the DDIM and ancestral samplers, on data whose denoiser is known."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.diffusion.prediction import Prediction, from_output
from progdist.diffusion.samplers import (
    Move,
    ddim_step,
    make_ancestral_step,
    sample,
    trajectory,
)
from progdist.diffusion.schedules import Cosine
from progdist.diffusion.settings import Clip
from tests import toy
from tests.toy import Counted, alpha_sigma, float64, quick

pytestmark = pytest.mark.usefixtures("strict_dtypes")

MEAN, STD = 0.2, 0.5
GAMMAS = [0.0, 0.3, 1.0]
SCHEDULE = Cosine()


def _logsnr(t):
    """The cosine schedule's log-SNR, -2 log tan(a t + b), in float64."""
    b = np.arctan(np.exp(-10))
    return -2 * np.log(np.tan((np.arctan(np.exp(10)) - b) * np.asarray(t) + b))


def _keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def _noise(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _move(z_t, logsnr_t, logsnr_s, i):
    """A move of one image of one pixel."""
    return Move(jnp.array([z_t]), jnp.array([logsnr_t]), jnp.array([logsnr_s]), i)


# DDIM


# From the authors' published sampler, run in float64 on the network of the test below.
GOLDEN = [
    ("x", 1, [-0.781806, -0.444057, 0.095166, 0.583783, 0.781806]),
    ("x", 4, [-0.682812, -0.385305, 0.214355, 0.645390, 0.769693]),
    ("v", 1, [0.781738, 0.444026, -0.095159, -0.583739, -0.781738]),
    ("v", 4, [-0.384616, -0.179463, -0.022147, 0.149964, 0.303785]),
    ("eps", 4, [-1, -1, 0.398476, 1, 1]),
    ("both", 4, [-1, -0.798838, 0.174235, 1, 1]),
]


@pytest.mark.parametrize(("target", "num_steps", "expected"), GOLDEN)
@float64
def test_ddim_golden_values(target, num_steps, expected):
    def denoise(z, logsnr):
        at = jax.nn.sigmoid(logsnr).reshape(-1, 1, 1, 1)
        output = jnp.tanh(0.7 * z + 0.1 * at)
        if target == "both":
            output = jnp.concatenate([output, 0.5 * output], axis=-1)
        return from_output(output, z, logsnr, target)

    z_1 = jnp.linspace(-1.5, 1.5, 12).reshape(1, 2, 2, 3)
    x = np.asarray(sample(denoise, SCHEDULE, z_1, num_steps=num_steps)).ravel()
    np.testing.assert_allclose(x[[0, 3, 6, 9, 11]], expected, atol=5.1e-7)


@quick
@given(
    z_t=st.floats(-3, 3),
    x=st.floats(-1, 1),
    logsnr_t=st.floats(-20, 15),
    gap=st.floats(1e-3, 5),
)
@float64
def test_both_published_forms_of_ddim_agree(z_t, x, logsnr_t, gap):
    logsnr_s = logsnr_t + gap
    (alpha_t, sigma_t), (alpha_s, _) = alpha_sigma(logsnr_t), alpha_sigma(logsnr_s)
    one = toy.ddim_step(z_t, x, logsnr_t, logsnr_s)
    decay = np.exp((logsnr_t - logsnr_s) / 2)
    other = decay * alpha_s / alpha_t * z_t + (1 - decay) * alpha_s * x
    eps = (z_t - alpha_t * x) / sigma_t
    prediction = Prediction(jnp.array([x]), jnp.array([eps]), jnp.array([np.nan]))
    move = _move(z_t, logsnr_t, logsnr_s, 1)
    z_s = ddim_step(prediction, move)
    np.testing.assert_allclose(z_s, [one], atol=1e-12)
    np.testing.assert_allclose(z_s, [other], atol=1e-12)


@pytest.mark.parametrize("rule", ["ddim", "ancestral"])
def test_a_point_mass_is_reached_exactly(rule):
    # x̂ is the point whatever z is, and the last step returns x̂ itself.
    step = ddim_step if rule == "ddim" else make_ancestral_step(_keys(3), 0.5)
    denoise, z_1 = toy.point_mass(0.375), _noise((3, 4))
    run = jax.jit(
        lambda num_steps: sample(denoise, SCHEDULE, z_1, num_steps=num_steps, step=step)
    )
    for num_steps in [1, 2, 3, 16]:
        np.testing.assert_array_equal(
            run(num_steps), np.full((3, 4), np.float32(0.375))
        )


@float64
def test_one_ddim_step_on_a_point_mass_keeps_the_noise():
    # z_1 = alpha x + sigma eps goes to alpha_s x + sigma_s eps, from any t to any s
    x, eps, logsnr_t, logsnr_s = 0.375, 1.25, -7.0, 3.0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        alpha_sigma(logsnr_t),
        alpha_sigma(logsnr_s),
    )
    z_t, at = jnp.array([alpha_t * x + sigma_t * eps]), jnp.array([logsnr_t])
    move = Move(z_t, at, jnp.array([logsnr_s]), 1)
    z_s = ddim_step(toy.point_mass(x)(z_t, at), move)
    np.testing.assert_allclose(z_s, [alpha_s * x + sigma_s * eps], rtol=1e-13)


@float64
def test_ddim_has_order_one_on_gaussian_data():
    z_1, denoise = jnp.linspace(-2.0, 2.0, 9)[None], toy.gaussian(MEAN, STD)
    exact = toy.gaussian_flow(z_1, _logsnr(1.0), _logsnr(0.25), MEAN, STD)
    errors = []
    for num_steps in [32, 64, 128]:
        path = trajectory(denoise, SCHEDULE, z_1, num_steps=num_steps, clip="none")
        at_quarter = np.asarray(path.z)[num_steps * 3 // 4]
        errors.append(np.abs(at_quarter - exact).max())
    np.testing.assert_allclose(toy.observed_orders(errors), 1.0, atol=0.1)


@float64
def test_ddim_samples_gaussian_data_in_the_limit():
    z_1, denoise = jnp.linspace(-2.0, 2.0, 9)[None], toy.gaussian(MEAN, STD)
    exact = MEAN + STD * z_1  # the flow from N(0, 1) to the data
    run = jax.jit(lambda n: sample(denoise, SCHEDULE, z_1, num_steps=n, clip="none"))
    errors = [np.abs(run(n) - exact).max() for n in (32, 64, 128, 256)]
    # the log-SNR ends at 20, so that N(0, 1) is met to e^-10 = 4.5e-5
    np.testing.assert_allclose(toy.observed_orders(errors), 1.0, atol=0.1)


# Both samplers


@pytest.mark.parametrize("rule", ["ddim", "ancestral"])
def test_n_steps_are_n_network_calls(rule):
    step = ddim_step if rule == "ddim" else make_ancestral_step(_keys(2), 0.5)
    denoise, z_1 = Counted(toy.two_modes(0.5, 0.2)), _noise((2, 3))
    traced = jax.jit(
        lambda num_steps: sample(denoise, SCHEDULE, z_1, num_steps=num_steps, step=step)
    )
    for num_steps in [1, 2, 3, 5]:
        assert denoise.during(lambda n=num_steps: traced(n))[0] == num_steps
    for run in (sample, trajectory):  # with N known beforehand
        calls, _ = denoise.during(
            lambda run=run: run(denoise, SCHEDULE, z_1, num_steps=3, step=step)
        )
        assert calls == 3


def test_one_compilation_serves_every_number_of_steps():
    traces, denoise, z_1 = [], toy.two_modes(0.5, 0.2), _noise((2, 3))

    @jax.jit
    def run(num_steps):
        traces.append(num_steps)
        return sample(denoise, SCHEDULE, z_1, num_steps=num_steps)

    x = {num_steps: run(num_steps) for num_steps in [1, 2, 3, 5, 64]}
    assert len(traces) == 1
    np.testing.assert_allclose(
        x[3], sample(denoise, SCHEDULE, z_1, num_steps=3), atol=1e-6
    )


@pytest.mark.parametrize("rule", ["ddim", "ancestral"])
def test_the_trajectory_is_the_samples_way(rule):
    step = ddim_step if rule == "ddim" else make_ancestral_step(_keys(2), 0.5)
    denoise, z_1 = toy.two_modes(0.5, 0.2), _noise((2, 3))
    path = trajectory(denoise, SCHEDULE, z_1, num_steps=4, step=step)
    np.testing.assert_allclose(path.t, [1, 0.75, 0.5, 0.25, 0], atol=0)
    np.testing.assert_array_equal(path.z[0], z_1)
    assert path.z.shape == (5, 2, 3)
    assert path.x.shape == (4, 2, 3)
    np.testing.assert_array_equal(path.z[-1], path.x[-1])
    np.testing.assert_allclose(
        path.z[-1], sample(denoise, SCHEDULE, z_1, num_steps=4, step=step), atol=1e-6
    )
    if rule == "ddim":
        for j, (t, s) in enumerate([(1.0, 0.75), (0.75, 0.5), (0.5, 0.25)]):
            z_s = toy.ddim_step(path.z[j], path.x[j], _logsnr(t), _logsnr(s))
            np.testing.assert_allclose(path.z[j + 1], z_s, atol=2e-6)


@pytest.mark.parametrize("clip", get_args(Clip))
def test_clipping_limits_the_images_and_only_on_request(clip):
    denoise = toy.gaussian(0.0, 3.0)
    x = sample(denoise, SCHEDULE, jnp.array([[-2.0, 0.1, 2.0]]), num_steps=8, clip=clip)
    assert (np.abs(x).max() <= 1) == (clip != "none")
    assert abs(x[0, 1]) < 1


# Ancestral


# Mean and variances from the authors' published sampler, run in float64.
@pytest.mark.parametrize(
    ("gamma", "variance"), [(0.0, 0.11326816), (1.0, 0.69466132), (0.3, 0.19516746)]
)
@float64
def test_ancestral_golden_values(gamma, variance):
    key, i = jax.random.key(5), 3
    move = _move(0.2, -1.0, 2.0, i)
    prediction = Prediction(jnp.array([0.5]), jnp.array([np.nan]), jnp.array([np.nan]))
    z_s = make_ancestral_step(key[None], gamma)(prediction, move)
    noise = jax.random.normal(jax.random.fold_in(key, i), ())
    np.testing.assert_allclose(z_s, [0.46391121 + np.sqrt(variance) * noise], atol=1e-7)


def _marginal(mean, std, t):
    """Mean and variance of q(z_t) for data N(mean, std²)."""
    alpha, sigma = alpha_sigma(_logsnr(t))
    return alpha * mean, alpha**2 * std**2 + sigma**2


def _recursion(mean, std, gamma, num_steps, start):
    """Mean and variance of z at t = (N - 1)/N, …, 1/N, and of the final x̂, exactly.

    On Gaussian data x̂ is affine in z, so z stays Gaussian: from z ~ N(m, V) the step
    gives N(a m + b, a² V + variance of the noise). It begins with the pair `start`.
    """
    t = np.arange(num_steps, -1, -1) / num_steps
    alpha, sigma = alpha_sigma(_logsnr(t))
    (m, variance), moments = start, []
    for j in range(num_steps):
        var = alpha[j] ** 2 * std**2 + sigma[j] ** 2
        gain, offset = alpha[j] * std**2 / var, sigma[j] ** 2 * mean / var  # of x̂
        if j == num_steps - 1:
            moments.append((gain * m + offset, gain**2 * variance))
            break
        r = np.exp(_logsnr(t[j]) - _logsnr(t[j + 1]))
        a = r * alpha[j + 1] / alpha[j] + (1 - r) * alpha[j + 1] * gain
        b = (1 - r) * alpha[j + 1] * offset
        lower, upper = (1 - r) * sigma[j + 1] ** 2, (1 - r) * sigma[j] ** 2
        m = a * m + b
        variance = a**2 * variance + lower ** (1 - gamma) * upper**gamma
        moments.append((m, variance))
    return np.array(moments)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ancestral_recursion_keeps_the_marginals_as_steps_shrink(gamma):
    # The mean is kept by any number of steps. The bounds of the variance differ by
    # O(1/N²) a step, so that every gamma keeps it up to an error that falls as 1/N.
    start, end = (_marginal(MEAN, STD, t) for t in (1.0, 0.25))
    moments = np.array(
        [_recursion(MEAN, STD, gamma, n, start)[n * 3 // 4 - 1] for n in (512, 1024)]
    )
    np.testing.assert_allclose(moments[:, 0], end[0], rtol=1e-10)
    coarse, fine = np.abs(moments[:, 1] - end[1])
    assert fine < 2e-3
    np.testing.assert_allclose(coarse / fine, 2.0, atol=0.05)


@pytest.mark.parametrize(("std", "gamma"), [(0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("num_steps", [2, 7])
def test_each_bound_is_exact_on_the_data_it_is_named_for(std, gamma, num_steps):
    # The lower bound is the reverse variance of a point mass, the upper one that of
    # N(0, 1): for them the marginals hold with any number of steps.
    times = np.arange(num_steps - 1, 0, -1) / num_steps
    start = _marginal(0.0, std, 1.0)
    variances = _recursion(0.0, std, gamma, num_steps, start)[:-1, 1]
    np.testing.assert_allclose(variances, _marginal(0.0, std, times)[1], rtol=1e-10)


@float64
def test_ancestral_follows_the_recursion_draw_by_draw():
    # The same noise in the same affine map: no statistics needed.
    num_steps, b, gamma = 4, 3, 0.3
    keys, z_1 = _keys(b), _noise((b, 2)).astype(float)
    step = make_ancestral_step(keys, gamma)
    path = trajectory(
        toy.gaussian(MEAN, STD),
        SCHEDULE,
        z_1,
        num_steps=num_steps,
        step=step,
        clip="none",
    )
    z, t = np.asarray(z_1), np.arange(num_steps, -1, -1) / num_steps
    for j, i in enumerate(range(num_steps - 1, 0, -1)):
        alpha, sigma = alpha_sigma(_logsnr(t[j : j + 2]))
        x = MEAN + alpha[0] * STD**2 / (alpha[0] ** 2 * STD**2 + sigma[0] ** 2) * (
            z - alpha[0] * MEAN
        )
        r = np.exp(_logsnr(t[j]) - _logsnr(t[j + 1]))
        lower, upper = (1 - r) * sigma[1] ** 2, (1 - r) * sigma[0] ** 2
        noise = [jax.random.normal(jax.random.fold_in(k, i), (2,)) for k in keys]
        z = (
            r * alpha[1] / alpha[0] * z
            + (1 - r) * alpha[1] * x
            + np.sqrt(lower ** (1 - gamma) * upper**gamma) * np.array(noise)
        )
        np.testing.assert_allclose(path.z[j + 1], z, atol=1e-10)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_ancestral_samples_have_the_recursions_moments(gamma):
    num, num_steps = 20_000, 16
    step, z_1 = make_ancestral_step(_keys(num), gamma), _noise((num, 1))
    path = trajectory(
        toy.gaussian(MEAN, STD),
        SCHEDULE,
        z_1,
        num_steps=num_steps,
        step=step,
        clip="none",
    )
    z = np.asarray(path.z[1:, :, 0], np.float64)
    mean, variance = _recursion(MEAN, STD, gamma, num_steps, (0.0, 1.0)).T
    # five standard errors of a Gaussian's mean and variance
    assert np.all(np.abs(z.mean(1) - mean) < 5 * np.sqrt(variance / num))
    assert np.all(np.abs(z.var(1) / variance - 1) < 5 * np.sqrt(2 / num))


def test_an_image_depends_on_its_own_key_alone():
    denoise, z_1, keys = toy.two_modes(0.5, 0.2), _noise((3, 2, 2, 1)), _keys(3)
    together = sample(
        denoise, SCHEDULE, z_1, num_steps=4, step=make_ancestral_step(keys, 0.5)
    )
    alone = sample(
        denoise,
        SCHEDULE,
        z_1[1:2],
        num_steps=4,
        step=make_ancestral_step(keys[1:2], 0.5),
    )
    together = np.asarray(together)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)
    others = _keys(3, 9).at[1].set(keys[1])
    changed = np.asarray(
        sample(
            denoise, SCHEDULE, z_1, num_steps=4, step=make_ancestral_step(others, 0.5)
        )
    )
    np.testing.assert_array_equal(changed[1], together[1])
    assert np.all(np.abs(changed - together).max((1, 2, 3))[np.array([0, 2])] > 1e-3)


def test_every_step_draws_its_own_noise():
    q = Prediction(*(jnp.zeros((1, 64)),) * 3)
    step = make_ancestral_step(_keys(1), 1.0)
    draws = [
        step(q, Move(jnp.zeros((1, 64)), jnp.zeros(1), jnp.ones(1), i)) for i in (1, 2)
    ]
    assert abs(np.corrcoef(draws[0][0], draws[1][0])[0, 1]) < 5 / np.sqrt(64)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma: .* is not in \[0, 1\]"):
        make_ancestral_step(_keys(1), gamma)
