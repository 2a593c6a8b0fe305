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


def test_the_rate_rises_and_falls_where_both_are_asked_for():
    found = rates(8, peak=2.0, warmup_updates=4, anneal="linear")
    falls = 1 - np.arange(8) / 8
    rises = np.minimum(1, np.arange(1, 9) / 4)
    np.testing.assert_allclose(found, 2 * rises * falls, rtol=1e-6)


def test_the_average_follows_its_recursion():
    optimizer = state.make_optimizer()
    now = state.init_state({"w": jnp.ones(2)}, optimizer, keep_ema=True)
    expected = now.ema_params["w"]
    for k in range(3):
        gradient = {"w": jnp.full(2, 1.0 + k)}
        now = state.apply_gradient(
            now, gradient, optimizer, rate=jnp.float32(0.1), ema_rate=0.1
        )
        expected = 0.9 * expected + 0.1 * now.params["w"]
    np.testing.assert_allclose(now.ema_params["w"], expected, rtol=1e-6)
    assert state.sampling_params(now) is now.ema_params


def test_an_average_that_warms_up_by_two_is_the_mean_until_its_decay_is_reached():
    """Of the parameters after each update, the first twice (decay_t = (1+t)/(2+t))."""
    rates = [
        state.averaging_rate(jnp.int32(t), decay=0.99, warmup=2) for t in range(200)
    ]
    values, average, means = np.random.default_rng(0).normal(size=200), 1.0, []
    for t in range(90):
        average += float(rates[t]) * (values[t] - average)
        means.append(average)
    expected = (values[0] + np.cumsum(values[:90])) / np.arange(2, 92)
    np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rates[99:], 0.01, rtol=1e-6)


def test_without_a_warm_up_the_decay_is_constant():
    rates = [state.averaging_rate(jnp.int32(t), decay=0.75, warmup=0) for t in (1, 9)]
    assert rates == [0.25, 0.25]


@pytest.mark.parametrize("warmup", [0, 20])
def test_an_average_starts_as_the_parameters_after_the_first_update(warmup):
    assert state.averaging_rate(jnp.int32(0), decay=0.9999, warmup=warmup) == 1.0


def test_without_an_average_the_parameters_sample():
    now = state.init_state(tiny.params(), state.make_optimizer(), keep_ema=False)
    assert state.sampling_params(now) is now.params


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_first_update_is_adams(weight_decay):
    """Adam's first step has the size of the rate, whatever the gradient's scale."""
    optimizer = state.make_optimizer(weight_decay=weight_decay)
    before = {"w": jnp.array([1.0, -2.0])}
    now = state.init_state(before, optimizer, keep_ema=False)
    gradient = {"w": jnp.array([30.0, -40.0])}
    after = state.apply_gradient(
        now, gradient, optimizer, rate=jnp.float32(0.01), ema_rate=1.0
    )
    expected = before["w"] - 0.01 * (jnp.array([1, -1]) + weight_decay * before["w"])
    np.testing.assert_allclose(after.params["w"], expected, rtol=1e-5)
    assert after.step == 1


def test_a_new_state_has_memory_of_its_own():
    params = tiny.params()
    now = state.init_state(params, state.make_optimizer(), keep_ema=True)
    pointers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((params, now.params, now.ema_params))
    ]
    assert len(set(pointers)) == len(pointers)


def adam(params, gradients, rate, weight_decay, b1, b2, epsilon):
    """The parameters after each update, in float64 from the published formulas.

    Adam (Kingma & Ba 2015, algorithm 1) with decoupled weight decay (Loshchilov &
    Hutter 2019, algorithm 2).
    """
    m, v = (dict.fromkeys(params, 0.0) for _ in range(2))
    for t, gradient in enumerate(gradients, start=1):
        for name, g in gradient.items():
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g**2
            step = (m[name] / (1 - b1**t)) / (np.sqrt(v[name] / (1 - b2**t)) + epsilon)
            params[name] = params[name] - rate * (step + weight_decay * params[name])
        yield dict(params)


@pytest.mark.parametrize("constants", [(0.9, 0.999, 1e-8), (0.5, 0.9, 1e-3)])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_updates_are_those_of_adam_decayed(scale, constants):
    """At the smaller scale, epsilon counts."""
    b1, b2, eps = constants
    rng = np.random.default_rng(0)
    sizes = scale * np.array([10.0, 0.5, 3.0, 0.1, 1.5, 0.9])
    gradients = []
    for size in sizes:
        parts = {"w": rng.normal(size=(2, 3)), "b": rng.normal(size=3)}
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in parts.values()))
        gradients.append({name: size / norm * g for name, g in parts.items()})
    params = {"w": rng.normal(size=(2, 3)), "b": rng.normal(size=3)}
    optimizer = state.make_optimizer(weight_decay=0.1, b1=b1, b2=b2, eps=eps)
    now = state.init_state(jax.tree.map(jnp.float32, params), optimizer, keep_ema=False)
    expected = adam(dict(params), gradients, 0.01, 0.1, b1, b2, eps)
    for gradient, wanted in zip(gradients, expected, strict=True):
        gradient = jax.tree.map(jnp.float32, gradient)
        now = state.apply_gradient(
            now, gradient, optimizer, rate=jnp.float32(0.01), ema_rate=1.0
        )
        for name, value in wanted.items():
            # Updates of size 0.01, to a few roundings.
            np.testing.assert_allclose(now.params[name], value, atol=1e-6, rtol=0)
