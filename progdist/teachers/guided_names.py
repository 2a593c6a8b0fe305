"""Names of guided-diffusion's parameters, here and there.

`input_blocks.1.0.in_layers.2.weight` is `input_blocks.1.0` / `in_layers.2` / `kernel`:
the place of a module is one name, with its dots. Inputs come before outputs here.
"""

import re
from pathlib import Path

import flax.traverse_util
import numpy as np

from progdist.checkpoint import CheckpointError
from progdist.checkpoint.weights import Arrays
from progdist.errors import escaped
from progdist.model import Params
from progdist.nets.guided_settings import GuidedUNetConfig

_NAME = re.compile(
    r"(input_blocks\.\d+\.\d+|middle_block\.\d+|output_blocks\.\d+\.\d+|"
    r"time_embed\.\d+|out\.\d+|label_emb)\."
    r"(?:(in_layers\.\d|emb_layers\.\d|out_layers\.\d|skip_connection|norm|qkv|"
    r"proj_out|op|conv)\.)?(weight|bias)",
    re.ASCII,
)


def params_of(
    path: Path, arrays: Arrays, by_head: GuidedUNetConfig | None, out_channels: int
) -> Params:
    """Returns the parameters as views of the file's, in the tree of the network.

    Args:
      path: the file, for messages.
      arrays: its parameters by their names there.
      by_head: settings of the heads, if q, k and v of each head follow each other; None
        if all q come first, then all k and all v.
      out_channels: channels of the output; what the last layer has beyond them is a
        learned variance, and is left out.

    Raises:
      CheckpointError: if a name is of no such network, or a parameter is a scalar.
    """
    leaves = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if not match or not array.ndim:
            raise CheckpointError(
                f"{path}: {escaped(name)} is no parameter of guided-diffusion"
            )
        module, inner, kind = match.groups()
        if module == "out.2":
            array = array[:out_channels]
        if by_head and inner == "qkv":
            array = _by_kind(array, by_head)
        leaf, value = _leaf(module, array, kind)
        leaves[(module, inner, leaf) if inner else (module, leaf)] = value
    return flax.traverse_util.unflatten_dict(leaves)


def _by_kind(array: np.ndarray, net: GuidedUNetConfig) -> np.ndarray:
    """Returns rows of q, k and v of each head as all q, all k, all v."""
    heads = len(array) // (3 * net.head_dim) if net.head_dim else net.num_heads
    if not heads or len(array) % (3 * heads):
        return array  # of another shape than the network's, which is refused
    by_head = array.reshape(heads, 3, -1, *array.shape[1:])
    return by_head.swapaxes(0, 1).reshape(array.shape)


def _leaf(module: str, array: np.ndarray, kind: str) -> tuple[str, np.ndarray]:
    """Returns a parameter's name in Flax, and its value with inputs before outputs."""
    if kind == "bias":
        return "bias", array
    if module == "label_emb":
        return "embedding", array
    if array.ndim == 1:
        return "scale", array
    if array.shape[2:] == (1,) * (array.ndim - 2):
        return "kernel", array.reshape(array.shape[:2]).T
    return "kernel", np.moveaxis(array, (0, 1), (-1, -2))
