import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import parallel
from progdist.parallel import REPLICATED, ROWS
from progdist.trainer.gradient import Division, mean_gradient
from tests.toy import float64

ROWS_OF_X = np.random.default_rng(0).normal(size=(64, 3))
W = np.linspace(-1, 1, 3)
BOUND = 8.0


def loss(w, rows):
    x, keys = rows
    noise = jax.vmap(lambda k: jax.random.normal(k, dtype=x.dtype))(keys)
    return 50 * jnp.mean(jnp.tanh(x @ w + noise) ** 2), jnp.mean(x)


def keys():
    return jax.random.split(jax.random.key(0), 64)


def mapped(num_devices, division, unroll=True):
    """The gradient of the batch on some devices."""
    mesh = parallel.make_mesh(jax.devices()[:num_devices])

    def gradient(w, x, keys):
        return mean_gradient(loss, w, (x, keys), division, unroll=unroll)

    groups = division.device_groups(num_devices)
    fn = parallel.pmap(
        gradient, mesh, (REPLICATED, ROWS, ROWS), REPLICATED, num_groups=groups
    )
    return fn(parallel.place(jnp.asarray(W), mesh), *rows_on(mesh))


def rows_on(mesh):
    sharding = jax.sharding.NamedSharding(mesh, ROWS)
    return jax.device_put((jnp.asarray(ROWS_OF_X), keys()), sharding)


@functools.cache
def clipped_by_hand(num_groups):
    """Mean of the groups' clipped gradients, and of their norms."""
    gradients, norms = [], []
    for group in np.split(np.arange(64), num_groups):
        rows = jnp.asarray(ROWS_OF_X[group]), keys()[group]
        gradient = np.asarray(jax.grad(lambda w, rows=rows: loss(w, rows)[0])(W))
        norm = np.linalg.norm(gradient)
        gradients.append(gradient / max(1, norm / BOUND))
        norms.append(norm)
    # Some are clipped, some are not.
    assert num_groups == 1 or min(norms) < BOUND < max(norms)
    return np.mean(gradients, 0), np.mean(norms)


@pytest.mark.parametrize(
    ("num_devices", "num_groups"), list(itertools.product((1, 2, 8), (1, 4, 16)))
)
@float64
def test_each_group_is_clipped_by_itself_on_any_number_of_devices(
    num_devices, num_groups
):
    result = mapped(num_devices, Division(BOUND, num_groups))
    gradient, norm = clipped_by_hand(num_groups)
    np.testing.assert_allclose(result.gradient, gradient, rtol=1e-12)
    np.testing.assert_allclose(result.norm, norm, rtol=1e-12)


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize(
    ("num_devices", "num_groups"), [(1, 1), (1, 4), (8, 1), (8, 2), (2, 4)]
)
@float64
def test_micro_batches_equal_the_whole_batch(num_devices, num_groups, unroll):
    """Loss, auxiliary value, gradient and norm; keys belong to rows."""
    whole = mapped(num_devices, Division(BOUND, num_groups))
    parts = mapped(num_devices, Division(BOUND, num_groups, 8), unroll)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_without_a_bound_nothing_is_clipped():
    gradient = mapped(1, Division(0.0, 4)).gradient
    whole = jax.grad(lambda w: loss(w, (jnp.asarray(ROWS_OF_X), keys()))[0])(W)
    np.testing.assert_allclose(gradient, whole, rtol=1e-5)


def test_micro_batches_use_less_memory():
    """Temporary memory of a layer whose activations outweigh its parameters."""

    def wide(w, x):
        hidden = jnp.tanh(x @ w)
        return jnp.mean(jnp.tanh(hidden @ w.T) ** 2), jnp.mean(x)

    def temporary(size):
        mesh = parallel.make_mesh(jax.devices()[:1])
        gradient = functools.partial(
            mean_gradient, wide, division=Division(1.0, 1, size), unroll=True
        )
        fn = parallel.pmap(
            lambda w, x: gradient(w, rows=x), mesh, (REPLICATED, ROWS), REPLICATED
        )
        shapes = jnp.ones((16, 32)), jnp.ones((4096, 16))
        return fn.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(256) < 0.4 * temporary(0)


@pytest.mark.parametrize(
    ("division", "num_local", "num_devices", "message"),
    [
        (Division(1, 4), 16, 6, "clip_groups=4: must be a divisor or a multiple of"),
        (Division(1, 6), 16, 4, "clip_groups=6: must be a divisor or a multiple of"),
        (Division(1, 1, 12), 16, 8, "micro_batch_size=12: must be the 8 devices times"),
        (Division(1, 1, 24), 16, 8, "micro_batch_size=24: must be the 8 devices times"),
    ],
)
def test_parts_that_are_not_equal_are_refused(
    division, num_local, num_devices, message
):
    with pytest.raises(ValueError, match=message):
        division.parts(num_local, num_devices)
