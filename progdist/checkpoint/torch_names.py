"""Names and layouts of a PyTorch network's parameters, as paths and arrays of a tree.

A number in a PyTorch name belongs to the word before it, so that
`down_blocks.0.resnets.1.conv1.weight` is at `down_blocks.0/resnets.1/conv1/kernel`.

| weight of                | rank | leaf      | axes in PyTorch → in the tree |
|--------------------------|-----:|-----------|-------------------------------|
| an embedding             |    2 | embedding | (number, out), both           |
| a norm                   |    1 | scale     | (channels,), both             |
| a dense layer            |    2 | kernel    | (out, in) → (in, out)         |
| a convolution in 1 axis  |    3 | kernel    | (out, in, i) → (i, in, out)   |
| a convolution in 2 axes  |    4 | kernel    | (out, in, i, j) → (i, j, in, out) |
"""

import re

import numpy as np
from jaxtyping import Shaped

_EMBEDDINGS = "class_embedding", "label_emb"
_TO_TREE = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}


def from_torch(
    name: str, array: Shaped[np.ndarray, "*torch"]
) -> tuple[str, Shaped[np.ndarray, "*tree"]]:
    """Returns a parameter's path in the tree, and the array in the tree's layout.

    Args:
      name: its name in PyTorch.
      array: its value there; a view of it is returned.
    """
    *modules, leaf = re.split(r"\.(?!\d)", name)
    kind = _weight_kind(modules, array.ndim) if leaf == "weight" else leaf
    axes = _TO_TREE.get(array.ndim) if kind == "kernel" else None
    return "/".join([*modules, kind]), array.transpose(axes) if axes else array


def to_torch(
    path: str, array: Shaped[np.ndarray, "*tree"]
) -> tuple[str, Shaped[np.ndarray, "*torch"]]:
    """Returns a parameter's name in PyTorch, and the array in PyTorch's layout.

    Args:
      path: its path in the tree, separated by slashes.
      array: its value there; a view of it is returned.
    """
    *modules, leaf = path.split("/")
    is_weight = leaf in ("kernel", "scale", "embedding")
    axes = _TO_TORCH.get(array.ndim) if leaf == "kernel" else None
    name = ".".join([*modules, "weight" if is_weight else leaf])
    return name, array.transpose(axes) if axes else array


def _weight_kind(modules: list[str], rank: int) -> str:
    """Returns the name of a weight's leaf."""
    if rank == 1:
        return "scale"
    is_embedding = rank == 2 and modules[-1:] and modules[-1] in _EMBEDDINGS
    return "embedding" if is_embedding else "kernel"
