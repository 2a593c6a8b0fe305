"""Outputs of the network published with the paper, and the parameters that made them.

`golden/README.md` has the version of that network and the rule of the parameters.
"""

import zlib
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

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


def parameters(shapes):
    """Parameters by rule in the shapes of a tree."""
    leaves = flatten_dict(shapes).items()
    return unflatten_dict({path: parameter(path, leaf.shape) for path, leaf in leaves})
