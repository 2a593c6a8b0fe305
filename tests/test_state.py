import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.trainer import state
from tests import tiny


def rates(num_updates, **settings):
    settings = {"peak": 1.0, "warmup_updates": 0, "anneal": "none"} | settings
    steps = jnp.arange(num_updates)
    return jax.vmap(
        lambda s: state.learning_rate(s, jnp.int32(num_updates), **settings)
    )(steps)


def test_the_rate_falls_linearly_to_zero_within_a_round():
    np.testing.assert_allclose(rates(4, anneal="linear"), [1, 0.75, 0.5, 0.25])


def test_the_rate_rises_over_the_warm_up_and_stays():
    np.testing.assert_allclose(rates(6, warmup_updates=4), [0.25, 0.5, 0.75, 1, 1, 1])


def test_the_average_follows_its_recursion():
    optimizer = state.make_optimizer(0.0, 0.0)
    now = state.init_state({"w": jnp.ones(2)}, optimizer, keep_ema=True)
    expected = now.ema_params["w"]
    for k in range(3):
        gradient = {"w": jnp.full(2, 1.0 + k)}
        now = state.apply_gradient(
            now, gradient, optimizer, rate=jnp.float32(0.1), ema_decay=0.9
        )
        expected = 0.9 * expected + 0.1 * now.params["w"]
    np.testing.assert_allclose(now.ema_params["w"], expected, rtol=1e-6)
    assert state.sampling_params(now) is now.ema_params


def test_without_an_average_the_parameters_sample():
    now = state.init_state(
        tiny.params(), state.make_optimizer(1.0, 0.0), keep_ema=False
    )
    assert state.sampling_params(now) is now.params


@pytest.mark.parametrize(
    ("clip_norm", "weight_decay"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.1)]
)
def test_the_first_update_is_adams(clip_norm, weight_decay):
    """Adam's first step has the size of the rate, whatever the gradient's scale."""
    optimizer = state.make_optimizer(clip_norm, weight_decay)
    before = {"w": jnp.array([1.0, -2.0])}
    now = state.init_state(before, optimizer, keep_ema=False)
    gradient = {"w": jnp.array([30.0, -40.0])}
    after = state.apply_gradient(
        now, gradient, optimizer, rate=jnp.float32(0.01), ema_decay=0.0
    )
    expected = before["w"] - 0.01 * (jnp.array([1, -1]) + weight_decay * before["w"])
    np.testing.assert_allclose(after.params["w"], expected, rtol=1e-5)
    assert after.step == 1


def test_a_new_state_has_memory_of_its_own():
    params = tiny.params()
    now = state.init_state(params, state.make_optimizer(1.0, 0.0), keep_ema=True)
    pointers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((params, now.params, now.ema_params))
    ]
    assert len(set(pointers)) == len(pointers)
