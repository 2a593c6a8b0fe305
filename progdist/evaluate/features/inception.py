"""The Inception-v3 of the FID, with the weights of 2015.

Szegedy et al. (2016), *Rethinking the Inception Architecture*, as TensorFlow's graph of
5 December 2015 has it: averages leave out the padding, and the last block pools by the
maximum. Its weights are distributed for pytorch-fid and torch-fidelity, which agree in
all but how they bring an image to 299x299 pixels and [-1, 1]: see `Resize`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from progdist.evaluate.features.inception_shapes import layer_shapes
from progdist.evaluate.features.layers import (
    Convolution,
    Images,
    Weights,
    average_pool,
    convolve,
    dense,
    max_pool,
    resize,
)
from progdist.evaluate.features.weights import Arrays, WeightsError

Resize = Literal["pytorch-fid", "torch-fidelity"]
"""pytorch-fid: half-pixel centres, then 2 (u / 255) - 1. torch-fidelity: as TensorFlow
1, pixel corners, then (u - 128) / 128; the networks of the first papers had it so."""

Pool = Callable[[Images], Images]
SIDE = 299
_EPSILON = 1e-3  # of the normalisations


class Inception(NamedTuple):
    """Convolutions by PyTorch's names, and the classifier without its bias."""

    layers: Weights
    classifier: Float[Array | np.ndarray, "2048 1008"]


class Outputs(NamedTuple):
    """The last pooled features, and the class scores without bias, as IS takes them."""

    features: Float[Array, "b 2048"]
    logits: Float[Array, "b 1008"]


def from_arrays(arrays: Arrays) -> Inception:
    """Takes PyTorch's state dictionary, its normalisations folded into the kernels.

    Raises:
      WeightsError: if one is missing or has another shape.
    """
    layers = {
        name: _folded(arrays, name, *shape) for name, shape in layer_shapes().items()
    }
    fc = np.ascontiguousarray(_take(arrays, "fc.weight", (1008, 2048)).T)
    return Inception(layers, fc)


def apply(
    net: Inception, images: UInt8[Array, "b h w 3"], how: Resize = "pytorch-fid"
) -> Outputs:
    """Returns the outputs of uint8 RGB images of any size.

    Raises:
      ValueError: if `how` is not one of `Resize`.
    """
    x, w = prepare(images, how), net.layers
    x = convolve(x, w["Conv2d_1a_3x3"], 2)
    x = convolve(x, w["Conv2d_2a_3x3"])
    x = convolve(x, w["Conv2d_2b_3x3"], 1, (1, 1))
    x = max_pool(x, 2)
    x = convolve(x, w["Conv2d_3b_1x1"])
    x = convolve(x, w["Conv2d_4a_3x3"])
    x = max_pool(x, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_a(x, w, name)
    x = _block_b(x, w, "Mixed_6a")
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_c(x, w, name)
    x = _block_d(x, w, "Mixed_7a")
    x = _block_e(x, w, "Mixed_7b", average_pool)
    x = _block_e(x, w, "Mixed_7c", lambda x: max_pool(x, 1, 1))
    features = x.mean((1, 2))
    return Outputs(features, dense(features, jnp.asarray(net.classifier)))


def prepare(images: UInt8[Array, "b h w 3"], how: Resize) -> Images:
    """Returns images as the network takes them: 299x299, in [-1, 1]."""
    x = images.astype(jnp.float32)
    match how:
        case "pytorch-fid":
            return 2 * resize(x / 255, SIDE, SIDE, half_pixel=True) - 1
        case "torch-fidelity":
            return (resize(x, SIDE, SIDE, half_pixel=False) - 128) / 128
    raise ValueError(f"resize: {how!r} is not one of {get_args(Resize)}")


def _chain(x: Images, w: Weights, name: str, *steps: str) -> Images:
    """Applies convolutions one after another, each padded to keep the size."""
    for step in steps:
        layer = w[f"{name}.{step}"]
        height, width = layer.kernel.shape[:2]
        x = convolve(x, layer, 1, (height // 2, width // 2))
    return x


def _block_a(x: Images, w: Weights, name: str) -> Images:
    branches = (
        _chain(x, w, name, "branch1x1"),
        _chain(x, w, name, "branch5x5_1", "branch5x5_2"),
        _chain(x, w, name, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        _chain(average_pool(x), w, name, "branch_pool"),
    )
    return jnp.concatenate(branches, -1)


def _block_b(x: Images, w: Weights, name: str) -> Images:
    inner = _chain(x, w, name, "branch3x3dbl_1", "branch3x3dbl_2")
    branches = (
        convolve(x, w[f"{name}.branch3x3"], 2),
        convolve(inner, w[f"{name}.branch3x3dbl_3"], 2),
        max_pool(x, 2),
    )
    return jnp.concatenate(branches, -1)


def _block_c(x: Images, w: Weights, name: str) -> Images:
    branches = (
        _chain(x, w, name, "branch1x1"),
        _chain(x, w, name, *(f"branch7x7_{i}" for i in (1, 2, 3))),
        _chain(x, w, name, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
        _chain(average_pool(x), w, name, "branch_pool"),
    )
    return jnp.concatenate(branches, -1)


def _block_d(x: Images, w: Weights, name: str) -> Images:
    one = _chain(x, w, name, "branch3x3_1")
    other = _chain(x, w, name, *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    branches = (
        convolve(one, w[f"{name}.branch3x3_2"], 2),
        convolve(other, w[f"{name}.branch7x7x3_4"], 2),
        max_pool(x, 2),
    )
    return jnp.concatenate(branches, -1)


def _block_e(x: Images, w: Weights, name: str, pool: Pool) -> Images:
    one = _chain(x, w, name, "branch3x3_1")
    other = _chain(x, w, name, "branch3x3dbl_1", "branch3x3dbl_2")
    branches = (
        _chain(x, w, name, "branch1x1"),
        _chain(one, w, name, "branch3x3_2a"),
        _chain(one, w, name, "branch3x3_2b"),
        _chain(other, w, name, "branch3x3dbl_3a"),
        _chain(other, w, name, "branch3x3dbl_3b"),
        _chain(pool(x), w, name, "branch_pool"),
    )
    return jnp.concatenate(branches, -1)


def _folded(
    arrays: Arrays, name: str, height: int, width: int, inputs: int, outputs: int
) -> Convolution:
    """The convolution followed by its normalisation, as one, computed in float64."""
    shape = (outputs, inputs, height, width)
    kernel = _take(arrays, f"{name}.conv.weight", shape).transpose(2, 3, 1, 0)
    gain, shift, mean, variance = (
        _take(arrays, f"{name}.bn.{part}", (outputs,)).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + _EPSILON)
    return Convolution(
        (kernel * scale).astype(np.float32), (shift - mean * scale).astype(np.float32)
    )


def _take(arrays: Arrays, name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = arrays.get(name)
    if found is None or found.shape != shape or not np.isfinite(found).all():
        about = "is missing" if found is None else f"is {found.dtype} {found.shape}"
        raise WeightsError(f"not the FID's Inception: {name} {about}, wanted {shape}")
    return found.astype(np.float32)
