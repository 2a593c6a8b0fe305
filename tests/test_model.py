import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.diffusion.prediction import from_output
from progdist.model import bind
from progdist.trainer import step
from progdist.trainer.state import TrainState
from tests import tiny

CALLS = []


class Spy(nn.Module):
    """Remembers what it is called with."""

    @nn.compact
    def __call__(self, z, logsnr, conditioning=None, dropout=None):
        CALLS.append((conditioning, dropout))
        return nn.Dense(z.shape[-1])(z)


@pytest.mark.parametrize("output", ["x", "eps", "v"])
def test_a_bound_network_predicts_what_its_output_means(output):
    z, logsnr = jnp.asarray(tiny.batch(3).image), jnp.array([-2.0, 0.0, 2.0])
    prediction = bind(tiny.model(output), tiny.params())(z, logsnr)
    raw = tiny.TinyNet().apply({"params": tiny.params()}, z, logsnr)
    expected = from_output(raw, z, logsnr, output)
    jax.tree.map(np.testing.assert_array_equal, prediction, expected)


def test_both_networks_get_the_label_and_the_student_alone_dropout():
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    params = Spy().init(jax.random.key(0), batch.image, jnp.zeros(4))["params"]
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)
    round_ = step.Round(params, jnp.int32(4), jnp.int32(10), jax.random.key(0))
    model = tiny.model(net=Spy())
    loss = step.make_distill_loss(
        model, model, weight="constant", ratio=2, dropout=0.25
    )
    CALLS.clear()
    loss(TrainState(jnp.int32(0), params, None, ()), round_, batch, draws)
    assert all(conditioning.label is batch.label for conditioning, _ in CALLS)
    dropouts = [dropout for _, dropout in CALLS if dropout is not None]
    assert len(CALLS) == 3
    assert [(d.keys is keys, d.rate) for d in dropouts] == [(True, 0.25)]


def test_student_and_teacher_may_be_different_models():
    """An eps network of another kind teaches a v network, and is left alone."""
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    teacher_params = Spy().init(jax.random.key(0), batch.image, jnp.zeros(4))["params"]
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), None)
    round_ = step.Round(teacher_params, jnp.int32(4), jnp.int32(10), jax.random.key(0))
    loss = step.make_distill_loss(
        tiny.model("v"), tiny.model("eps", Spy()), weight="constant", ratio=2
    )
    state = TrainState(jnp.int32(0), tiny.params(), None, ())
    CALLS.clear()
    examples = loss(state, round_, batch, draws)
    assert len(CALLS) == 2
    assert np.isfinite(examples.loss).all()
