"""A network of two parameters' worth of sense, for tests of all that is around it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from progdist.data import Batch
from progdist.diffusion.schedules import Cosine
from progdist.model import Model

SHAPE = (4, 4, 1)


class TinyNet(nn.Module):
    """A pixel-wise two-layer network of z and logsnr, called as the U-Net is."""

    @nn.compact
    def __call__(self, z, logsnr, conditioning=None, dropout=None):
        level = jnp.broadcast_to(logsnr[:, None, None, None] / 20, z.shape)
        hidden = nn.tanh(nn.Dense(8)(jnp.concatenate([z, level], axis=-1)))
        return nn.Dense(z.shape[-1])(hidden)


def model(parameterization="v", net=None) -> Model:
    net = net or TinyNet()
    return Model(net, parameterization, Cosine(), SHAPE, num_classes=0)


def params(seed: int = 0):
    z = jnp.zeros((1, *SHAPE))
    return TinyNet().init(jax.random.key(seed), z, jnp.zeros(1))["params"]


def batch(size: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (size, *SHAPE)).astype(np.float32)
    return Batch(image, np.zeros(size, np.int32))
