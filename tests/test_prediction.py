"""Any one of x, eps, v fixes the other two."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.diffusion.prediction import clip, from_output, num_outputs
from progdist.diffusion.settings import Parameterization
from tests.toy import alpha_sigma, float64, quick, unchecked

pytestmark = pytest.mark.usefixtures("strict_dtypes")

PARAMETERIZATIONS = get_args(Parameterization)
number = st.floats(-2, 2)
completed = jax.jit(from_output, static_argnames="parameterization")
every_kind = pytest.mark.parametrize("kind", PARAMETERIZATIONS)


def _truth(x, eps, logsnr):
    """z_t and every kind of output for one image of two channels, in float64."""
    alpha, sigma = alpha_sigma(logsnr)
    x, eps = np.full((1, 1, 2), x), np.full((1, 1, 2), eps)
    outputs = {
        "x": x,
        "eps": eps,
        "v": alpha * eps - sigma * x,
        "both": np.concatenate([x, eps], axis=-1),
    }
    z_t = jnp.asarray(alpha * x + sigma * eps)
    return z_t, {name: jnp.asarray(value) for name, value in outputs.items()}


@every_kind
@quick
@given(x=number, eps=number, logsnr=st.floats(-20, 20))
@float64
def test_every_kind_recovers_what_z_was_made_of(kind, x, eps, logsnr):
    z_t, outputs = _truth(x, eps, logsnr)
    prediction = completed(outputs[kind], z_t, jnp.array([logsnr]), kind)
    # dividing by alpha or sigma, down to 4.5e-5, costs as many digits
    for name in ("x", "eps", "v"):
        np.testing.assert_allclose(
            getattr(prediction, name), outputs[name], atol=1e-10, err_msg=name
        )


@pytest.mark.parametrize("last", ["x", "eps", "v"])
@pytest.mark.parametrize("first", PARAMETERIZATIONS)
@quick
@given(out=number, other=number, z=number, logsnr=st.floats(-10, 10))
@float64
def test_conversions_go_round(first, last, out, other, z, logsnr):
    # An arbitrary output, which need not be right about z: out and back again.
    at, z_t = jnp.array([logsnr]), jnp.array([[[z, -z]]])
    output = jnp.array([[[out, other, other, out][: 2 * num_outputs(first)]]])
    there = completed(output, z_t, at, first)
    back = completed(getattr(there, last), z_t, at, last)
    # e^5 = 148 is the worst 1 / alpha and 1 / sigma
    for name, part, same in zip(back._fields, back, there, strict=True):
        atol = 1e-11 * (1 + np.abs(same).max())
        np.testing.assert_allclose(part, same, atol=atol, err_msg=name)


@every_kind
@quick
@given(out=number, z=number, logsnr=st.floats(-10, 10))
@float64
def test_a_prediction_explains_z(kind, out, z, logsnr):
    # z_t = alpha x + sigma eps holds whatever the network says
    shape = (1, 2, 2 * num_outputs(kind))
    z_t, at = jnp.full((1, 2, 2), z), jnp.array([logsnr])
    p = completed(
        jnp.asarray(np.linspace(-1, out, np.prod(shape))).reshape(shape),
        z_t,
        at,
        kind,
    )
    alpha, sigma = alpha_sigma(logsnr)
    np.testing.assert_allclose(alpha * p.x + sigma * p.eps, z_t, atol=1e-11)
    np.testing.assert_allclose(alpha * p.eps - sigma * p.x, p.v, atol=1e-11)


@quick
@given(x_out=number, eps_out=number, z=number, logsnr=st.floats(-20, 20))
@float64
def test_both_averages_its_two_estimates_of_x(x_out, eps_out, z, logsnr):
    # x̂ = sigma² x_out + alpha (z - sigma eps_out)
    alpha, sigma = alpha_sigma(logsnr)
    output = jnp.array([[x_out, eps_out]])
    p = completed(output, jnp.array([[z]]), jnp.array([logsnr]), "both")
    expected = sigma**2 * x_out + alpha * (z - sigma * eps_out)
    np.testing.assert_allclose(p.x, [[expected]], atol=1e-14)


@quick
@given(guess=number, x=number, eps=number, logsnr=st.floats(-10, 10))
@float64
def test_squared_errors_differ_by_the_snr(guess, x, eps, logsnr):
    z_t, truth = _truth(x, eps, logsnr)
    p = completed(jnp.full(z_t.shape, guess), z_t, jnp.array([logsnr]), "x")
    error_x = np.square(p.x - truth["x"])
    error_eps, error_v = np.square(p.eps - truth["eps"]), np.square(p.v - truth["v"])
    snr = np.exp(logsnr)
    np.testing.assert_allclose(error_eps, snr * error_x, rtol=1e-9, atol=1e-11 * snr)
    np.testing.assert_allclose(
        error_v, (1 + snr) * error_x, rtol=1e-9, atol=1e-11 * snr
    )


@quick
@given(x=st.floats(-3, 3, allow_subnormal=False), z=number, logsnr=st.floats(-10, 10))
@float64
def test_clip_limits_x_and_recomputes_the_noise(x, z, logsnr):
    z_t, at = jnp.array([[z]]), jnp.array([logsnr])
    alpha, sigma = alpha_sigma(logsnr)
    p = clip(from_output(jnp.array([[x]]), z_t, at, "x"), z_t, at)
    limited = min(max(x, -1.0), 1.0)
    eps = (z - alpha * limited) / sigma
    np.testing.assert_allclose(p.x, [[limited]], atol=0)
    np.testing.assert_allclose(p.eps, [[eps]], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(p.v, [[alpha * eps - sigma * limited]], atol=1e-10)


@pytest.mark.parametrize("logsnr", [-20.0, 0.0, 20.0])
@every_kind
def test_float32_predictions_are_finite_at_both_ends(kind, logsnr):
    z_t = jnp.linspace(-2, 2, 8).reshape(1, 2, 2, 2)
    output = jnp.concatenate([z_t] * num_outputs(kind), axis=-1)
    p = completed(output, z_t, jnp.array([logsnr]), kind)
    assert all(np.isfinite(part).all() and part.dtype == np.float32 for part in p)


def test_both_needs_twice_the_channels():
    assert [num_outputs(kind) for kind in PARAMETERIZATIONS] == [1, 1, 1, 2]


def test_an_unknown_parameterization_is_refused():
    one = jnp.ones((1, 1))
    with pytest.raises(ValueError, match="parameterization: 'score' is not one of"):
        unchecked(from_output)(one, one, jnp.ones(1), "score")


def test_clip_keeps_the_noise_on_request():
    z_t, at = jnp.array([[0.3, 0.2]]), jnp.zeros(1)
    predicted = from_output(jnp.array([[2.0, 0.5]]), z_t, at, "x")
    kept = clip(predicted, z_t, at, "keep")
    np.testing.assert_array_equal(kept.x, [[1.0, 0.5]])
    np.testing.assert_array_equal(kept.eps, predicted.eps)
    assert clip(predicted, z_t, at, "none") is predicted
    with pytest.raises(ValueError, match="clip: 'no' is not one of"):
        unchecked(clip)(predicted, z_t, at, "no")
