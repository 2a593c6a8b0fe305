"""The U-Net against the network published with the paper, on the same parameters.

`golden/unet.npz` holds inputs and outputs of that network, which was run unmodified;
`golden/README.md` has its versions and the rule that gives every parameter its value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.nets.conditioning import Conditioning
from progdist.nets.unet import UNet
from tests.published_unet import GOLDEN, REDUCED, parameters


def make_net(name):
    return UNet(**REDUCED[name], num_groups=32)


def call(method, first, net, z, logsnr, label):
    """Calls `net.init` or `net.apply`, whose first argument differs."""
    return method(first, z, logsnr, Conditioning(label) if net.num_classes else None)


@pytest.mark.parametrize("name", REDUCED)
def test_the_network_is_the_published_one(name):
    net = make_net(name)
    z, logsnr, label, expected = (
        jnp.asarray(GOLDEN[f"{name}/{field}"])
        for field in ("z", "logsnr", "label", "output")
    )
    shapes = jax.eval_shape(
        lambda key: call(net.init, key, net, z, logsnr, label), jax.random.key(0)
    )["params"]
    params = parameters(shapes)
    apply = jax.jit(lambda p: call(net.apply, {"params": p}, net, z, logsnr, label))
    output = apply(params)
    assert output.shape == expected.shape
    # Both sum in float32, in another order; outputs are of order 1.
    np.testing.assert_allclose(output, expected, atol=5e-6, rtol=5e-6)
