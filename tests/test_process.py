"""The forward process and its reversal are one joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.diffusion.process import diffuse, forward, posterior
from tests.toy import alpha_sigma, float64, quick

pytestmark = pytest.mark.usefixtures("strict_dtypes")

number = st.floats(-3, 3)
pair = st.tuples(st.floats(-18, 18), st.floats(1e-3, 10))  # logsnr_t, its distance to s


def _one(value):
    return jnp.array([value])


@quick
@given(x=number, eps=number, logsnr=st.floats(-20, 20))
@float64
def test_diffuse_adds_noise_in_the_stated_shares(x, eps, logsnr):
    alpha, sigma = alpha_sigma(logsnr)
    z = diffuse(jnp.full((1, 2, 2), x), _one(logsnr), jnp.full((1, 2, 2), eps))
    np.testing.assert_allclose(
        z, np.full((1, 2, 2), alpha * x + sigma * eps), atol=1e-14
    )


@quick
@given(x=number, pair=pair)
@float64
def test_two_forward_steps_are_one(x, pair):
    # q(z_t | z_s) after q(z_s | x) is q(z_t | x) = N(alpha_t x, sigma_t²)
    logsnr_t, logsnr_s = pair[0], pair[0] + pair[1]
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (
        alpha_sigma(logsnr_s),
        alpha_sigma(logsnr_t),
    )
    q = forward(_one(alpha_s * x), logsnr_s=_one(logsnr_s), logsnr_t=_one(logsnr_t))
    gain = forward(_one(1.0), logsnr_s=_one(logsnr_s), logsnr_t=_one(logsnr_t)).mean
    np.testing.assert_allclose(q.mean, [alpha_t * x], atol=1e-13)
    np.testing.assert_allclose(
        gain**2 * sigma_s**2 + q.variance, [sigma_t**2], rtol=1e-13
    )


@quick
@given(x=number, z_t=number, pair=pair)
@float64
def test_posterior_is_bayes_rule(x, z_t, pair):
    # Given x, (z_s, z_t) is Gaussian: means alpha x, variances sigma² and covariance
    # (alpha_t / alpha_s) sigma_s². Conditioning on z_t gives q(z_s | z_t, x).
    logsnr_t, logsnr_s = pair[0], pair[0] + pair[1]
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (
        alpha_sigma(logsnr_s),
        alpha_sigma(logsnr_t),
    )
    gain = alpha_t / alpha_s * sigma_s**2 / sigma_t**2
    mean = alpha_s * x + gain * (z_t - alpha_t * x)
    variance = sigma_s**2 - gain**2 * sigma_t**2
    q = posterior(_one(z_t), _one(x), logsnr_t=_one(logsnr_t), logsnr_s=_one(logsnr_s))
    np.testing.assert_allclose(q.mean, [mean], atol=1e-13)
    np.testing.assert_allclose(q.variance, [variance], atol=1e-14 * float(sigma_s**2))


@float64
def test_posterior_golden_values():
    """Those of the authors' published code, run in float64."""
    q = posterior(_one(0.2), _one(0.5), logsnr_t=_one(-1.0), logsnr_s=_one(2.0))
    np.testing.assert_allclose(q.mean, [0.46391121], atol=5.1e-9)
    np.testing.assert_allclose(q.variance, [0.11326816], atol=5.1e-9)


@float64
def test_forward_variance_is_the_upper_golden_value():
    """The upper bound of the authors' published sampler, run in float64."""
    q = forward(_one(0.2), logsnr_s=_one(2.0), logsnr_t=_one(-1.0))
    np.testing.assert_allclose(q.variance, [0.69466132], atol=5.1e-9)


@pytest.mark.parametrize("exponent", [4, 8, 12, 16])
def test_variances_of_a_short_step_do_not_cancel_in_float32(exponent):
    step = 2.0**-exponent  # exact in float32 beside 1
    share = -np.expm1(-step)
    logsnr_t, logsnr_s = _one(jnp.float32(1 - step)), _one(jnp.float32(1.0))
    z = _one(jnp.float32(0.5))
    lower = posterior(z, z, logsnr_t=logsnr_t, logsnr_s=logsnr_s).variance
    upper = forward(z, logsnr_s=logsnr_s, logsnr_t=logsnr_t).variance
    np.testing.assert_allclose(lower, [share * alpha_sigma(1.0)[1] ** 2], rtol=1e-6)
    np.testing.assert_allclose(
        upper, [share * alpha_sigma(1 - step)[1] ** 2], rtol=1e-6
    )


def test_every_image_has_its_own_time():
    z, logsnr = jnp.ones((2, 3, 3, 1)), np.array([-1.0, 0.5], np.float32)
    q = posterior(z, z, logsnr_t=jnp.asarray(logsnr), logsnr_s=jnp.asarray(logsnr + 1))
    assert q.mean.shape == z.shape
    for j, at in enumerate(logsnr):
        alone = posterior(
            z[:1], z[:1], logsnr_t=jnp.array([at]), logsnr_s=jnp.array([at + 1])
        )
        np.testing.assert_allclose(np.asarray(q.mean)[j], alone.mean[0], rtol=1e-6)


def test_diffuse_has_the_stated_gradient():
    gain = jax.grad(lambda x: diffuse(x, jnp.zeros(1), jnp.ones(1)).sum())(jnp.ones(1))
    np.testing.assert_allclose(gain, np.sqrt([0.5]), rtol=1e-6)
