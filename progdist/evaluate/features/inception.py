"""Inception-v3 as used for the FID, with the weights of 2015.

Szegedy et al. (2016), *Rethinking the Inception Architecture*, as in TensorFlow's graph
of 5 December 2015: averages exclude the padding, and the last block pools by the
maximum. Its weights are distributed for pytorch-fid and torch-fidelity, which differ
only in how they map an image to 299x299 pixels and [-1, 1]: see `Resize`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from progdist.checkpoint.weights import Arrays, WeightsError
from progdist.evaluate.features import layers
from progdist.evaluate.features.layers import (
    Convolution,
    Features,
    Images,
    Weights,
    average_pool,
    max_pool,
)

Resize = Literal["pytorch-fid", "torch-fidelity"]
"""pytorch-fid: half-pixel centres, then 2 (u / 255) - 1. torch-fidelity: pixel corners
as in TensorFlow 1, then (u - 128) / 128, as for the networks of the first papers."""

Pool = Callable[[Images], Images]
SIDE = 299
_EPSILON = 1e-3  # of the normalisations


class Inception(NamedTuple):
    """Convolutions by their PyTorch names, and the classifier without its bias."""

    layers: Weights
    classifier: Float[Array | np.ndarray, "i o"]


def from_arrays(arrays: Arrays) -> Inception:
    """Returns the network from a PyTorch state dictionary.

    Normalisations are folded into the preceding kernels.

    Raises:
      WeightsError: if the arrays are not those of the network.
    """
    end = ".conv.weight"
    names = [key.removesuffix(end) for key in arrays if key.endswith(end)]
    classifier = np.ascontiguousarray(_take(arrays, "fc.weight", None, None).T)
    net = Inception({name: _folded(arrays, name) for name in names}, classifier)
    # Traced on shapes alone: checks that every layer exists and its shapes fit.
    jax.eval_shape(apply, net, jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.uint8))
    return net


def apply(
    net: Inception, images: UInt8[Array, "b h w c"], how: Resize = "pytorch-fid"
) -> Features:
    """Returns the pooled features, and the class logits without bias, as for the IS.

    Images may have any size.

    Raises:
      ValueError: if `how` is not one of `Resize`.
      WeightsError: if a layer is missing or expects other channels.
    """
    x, w = prepare(layers.rgb(images), how), net.layers
    x = _convolve(x, w, "Conv2d_1a_3x3", 2)
    x = _convolve(x, w, "Conv2d_2a_3x3")
    x = _convolve(x, w, "Conv2d_2b_3x3", 1, (1, 1))
    x = max_pool(x, 2)
    x = _convolve(x, w, "Conv2d_3b_1x1")
    x = _convolve(x, w, "Conv2d_4a_3x3")
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
    _check_channels("fc", features.shape[1], net.classifier.shape[0])
    return Features(features, layers.dense(features, jnp.asarray(net.classifier)))


def prepare(images: UInt8[Array, "b h w 3"], how: Resize) -> Images:
    """Returns images as the network expects them: 299x299, in [-1, 1]."""
    x = images.astype(jnp.float32)
    match how:
        case "pytorch-fid":
            return 2 * layers.resize(x / 255, SIDE, SIDE, half_pixel=True) - 1
        case "torch-fidelity":
            return (layers.resize(x, SIDE, SIDE, half_pixel=False) - 128) / 128
    raise ValueError(f"resize: {how!r} is not one of {get_args(Resize)}")


def _convolve(
    x: Images,
    w: Weights,
    name: str,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Images:
    if name not in w:
        raise _refusal(f"{name}.conv.weight is missing")
    _check_channels(name, x.shape[-1], w[name].kernel.shape[2])
    return layers.convolve(x, w[name], stride, padding)


def _chain(x: Images, w: Weights, name: str, *steps: str) -> Images:
    """Applies convolutions one after another, each padded to keep the size."""
    for step in (f"{name}.{step}" for step in steps):
        height, width = w[step].kernel.shape[:2] if step in w else (1, 1)
        x = _convolve(x, w, step, 1, (height // 2, width // 2))
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
        _convolve(x, w, f"{name}.branch3x3", 2),
        _convolve(inner, w, f"{name}.branch3x3dbl_3", 2),
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
        _convolve(one, w, f"{name}.branch3x3_2", 2),
        _convolve(other, w, f"{name}.branch7x7x3_4", 2),
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


def _folded(arrays: Arrays, name: str) -> Convolution:
    """Folds the normalisation into the convolution, in float64."""
    kernel = _take(arrays, f"{name}.conv.weight", None, None, None, None)
    gain, shift, mean, variance = (
        _take(arrays, f"{name}.bn.{part}", len(kernel)).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + _EPSILON)
    return Convolution(
        (kernel.transpose(2, 3, 1, 0) * scale).astype(np.float32),
        (shift - mean * scale).astype(np.float32),
    )


def _take(arrays: Arrays, name: str, *shape: int | None) -> np.ndarray:
    """Returns an array in float32; checks its shape, in which None is any size."""
    array = arrays.get(name)
    if array is None:
        raise _refusal(f"{name} is missing")
    pairs = zip(shape, array.shape, strict=False)
    if array.ndim != len(shape) or any(n not in (None, size) for n, size in pairs):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise _refusal(f"{name} is {array.dtype} {array.shape}, expected ({expected})")
    if not np.isfinite(array).all():
        raise _refusal(f"{name} is not finite")
    return array.astype(np.float32)


def _check_channels(name: str, channels: int, inputs: int) -> None:
    if channels != inputs:
        raise _refusal(f"{name} takes {inputs} channels, expected {channels}")


def _refusal(reason: str) -> WeightsError:
    return WeightsError(f"not the FID's Inception: {reason}")
