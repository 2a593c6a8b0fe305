import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.denoiser import bind
from progdist.diffusion.prediction import from_output
from progdist.diffusion.schedules import Cosine
from progdist.trainer import step
from tests import tiny

CALLS = []


class Spy(nn.Module):
    """Remembers what it is called with."""

    @nn.compact
    def __call__(self, z, logsnr, label=None, dropout_keys=None):
        CALLS.append((label, dropout_keys))
        return nn.Dense(z.shape[-1])(z)


@pytest.mark.parametrize("output", ["x", "eps", "v"])
def test_a_bound_network_predicts_what_its_output_means(output):
    z, logsnr = jnp.asarray(tiny.batch(3).image), jnp.array([-2.0, 0.0, 2.0])
    prediction = bind(tiny.TinyNet(), tiny.params(), output)(z, logsnr)
    raw = tiny.TinyNet().apply({"params": tiny.params()}, z, logsnr)
    expected = from_output(raw, z, logsnr, output)
    jax.tree.map(np.testing.assert_array_equal, prediction, expected)


def test_both_networks_get_the_label_and_the_student_alone_dropout():
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    params = Spy().init(jax.random.key(0), batch.image, jnp.zeros(4))["params"]
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)
    round_ = step.Round(params, jnp.int32(4), jnp.int32(10), jax.random.key(0))
    loss = step.make_distill_loss(Spy(), "v", Cosine(), "constant", ratio=2)
    CALLS.clear()
    loss(params, round_, batch, draws)
    assert all(label is batch.label for label, _ in CALLS)
    with_dropout = [dropout_keys is keys for _, dropout_keys in CALLS]
    assert sorted(with_dropout) == [False, False, True]
    assert [k for _, k in CALLS].count(None) == 2
