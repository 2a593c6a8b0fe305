import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import parallel
from progdist.parallel import REPLICATED, ROWS

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
W = np.linspace(-1, 1, 3).astype(np.float32)


def mean_loss(w, x):
    return jnp.mean(jnp.tanh(x @ w) ** 2)


def mapped(num_devices):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])

    def step(w, x):
        both = jax.value_and_grad(mean_loss)(parallel.varying(w), x)
        return parallel.mean(both, parallel.DATA)

    fn = parallel.pmap(step, mesh, (REPLICATED, ROWS), (REPLICATED, REPLICATED))
    return fn(parallel.place(W, mesh), parallel.shard(X, mesh))


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_loss_and_gradient_are_those_of_the_whole_batch(num_devices):
    expected = jax.value_and_grad(mean_loss)(W, X)
    for ours, theirs in zip(mapped(num_devices), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_equals_jax_pmap():
    def step(w, x):
        return jax.lax.pmean(jax.value_and_grad(mean_loss)(w, x), "data")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pmapped = jax.pmap(step, axis_name="data", in_axes=(None, 0))
        loss, gradient = pmapped(W, X.reshape(8, 2, 3))
    ours = mapped(8)
    np.testing.assert_allclose(ours[0], loss[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], gradient[0], rtol=1e-6)


def test_without_the_cast_the_gradient_is_too_large_by_the_number_of_devices():
    """The trap that `varying` exists for; if it is gone, so may that be."""
    mesh = parallel.make_mesh()

    def step(w, x):
        return jax.lax.pmean(jax.grad(mean_loss)(w, x), "data")

    naive = parallel.pmap(step, mesh, (REPLICATED, ROWS), REPLICATED)
    gradient = naive(parallel.place(W, mesh), parallel.shard(X, mesh))
    np.testing.assert_allclose(gradient, 8 * jax.grad(mean_loss)(W, X), rtol=1e-5)


def test_rows_are_numbered_through_the_global_batch():
    mesh = parallel.make_mesh()
    rows = parallel.pmap(lambda x: parallel.rows_here(len(x))[0], mesh, (ROWS,), ROWS)
    np.testing.assert_array_equal(rows(parallel.shard(X, mesh)), np.arange(16))


def test_donating_a_replica_leaves_the_original():
    mesh = parallel.make_mesh(jax.devices()[:1])
    original = jax.device_put(jnp.ones(3), jax.devices()[0])
    replica = parallel.place(original, mesh)
    add = parallel.pmap(
        lambda x: x + 1, mesh, (REPLICATED,), REPLICATED, donate_argnums=(0,)
    )
    add(replica)
    assert replica.is_deleted()
    np.testing.assert_array_equal(original, np.ones(3))


@pytest.mark.parametrize(
    "options",
    [
        {"xla_no_such_option": "1"},
        {"xla_cpu_experimental_ynn_fusion_type": "NO_SUCH_TYPE"},
    ],
)
def test_options_that_the_compiler_does_not_know_are_left_out(options):
    assert parallel.supported(options) == {}


def test_only_programs_with_large_maps_have_the_options_of_a_cpu(monkeypatch):
    monkeypatch.setattr(parallel, "cpu_options", lambda: {"xla_no_such_option": "1"})
    mesh = parallel.make_mesh()
    add = parallel.pmap(lambda x: x + 1, mesh, (ROWS,), ROWS)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        add(X)
    parallel.pmap(lambda x: x + 1, mesh, (ROWS,), ROWS, small_maps=True)(X)
