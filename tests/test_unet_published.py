"""The U-Net against the network published with the paper, on the same parameters.

`golden/unet.npz` holds inputs and outputs of that network, which was run unmodified;
`golden/README.md` has its versions and the rule that gives every parameter its value.
"""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from progdist.nets.conditioning import Conditioning
from progdist.nets.unet import UNet

GOLDEN = np.load(Path(__file__).parent / "golden" / "unet.npz")
# The published configurations, with fewer channels and blocks, at smaller sizes.
REDUCED = {
    "cifar10": {
        **{"ch": 64, "emb_ch": 128, "ch_mult": (1, 1, 1), "num_res_blocks": 2},
        **{"attn_resolutions": (4, 8), "num_heads": 1},
    },
    "imagenet64": {
        **{"ch": 64, "emb_ch": 128, "ch_mult": (1, 2, 3, 4), "num_res_blocks": 1},
        **{"attn_resolutions": (2, 4, 8), "head_dim": 64},
        **{"num_classes": 10, "out_ch": 6},
    },
    "lsun": {
        **{"ch": 64, "emb_ch": 192, "ch_mult": (1, 2, 4, 6, 8), "num_res_blocks": 1},
        **{"attn_resolutions": (2, 4, 8), "head_dim": 64, "out_ch": 6},
    },
}


def make_net(name):
    return UNet(**REDUCED[name], num_groups=32)


def call(method, first, net, z, logsnr, label):
    """Calls `net.init` or `net.apply`, whose first argument differs."""
    return method(first, z, logsnr, Conditioning(label) if net.num_classes else None)


def parameter(path, shape):
    """The value that the rule in golden/README.md gives a parameter."""
    seed = zlib.crc32("/".join(path).encode())
    draw = np.random.default_rng(seed).standard_normal(shape)
    projects = path[-2] in ("q", "k", "v")  # to (heads, channels of a head)
    num_inputs = np.prod(shape[:1] if projects else shape[:-1])
    values = {
        "scale": 1 + 0.1 * draw,
        "bias": 0.1 * draw,
        "kernel": draw / np.sqrt(num_inputs),
    }
    return values[path[-1]].astype(np.float32)


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
    params = unflatten_dict(
        {
            path: parameter(path, leaf.shape)
            for path, leaf in flatten_dict(shapes).items()
        }
    )
    apply = jax.jit(lambda p: call(net.apply, {"params": p}, net, z, logsnr, label))
    output = apply(params)
    assert output.shape == expected.shape
    # Both sum in float32, in another order; outputs are of order 1.
    np.testing.assert_allclose(output, expected, atol=5e-6, rtol=5e-6)
