"""Layers of the feature networks: functions of images [b, h, w, c] in float32.

Accelerators compute float32 products in lower precision by default. That is disabled
here, since it would change distances between features.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

Images = Float[Array, "_ _ _ _"]
Padding = str | tuple[int, int]
_PRECISION = lax.Precision.HIGHEST


class Convolution(NamedTuple):
    """Kernel [h, w, in, out], and a bias for each output."""

    kernel: Float[Array | np.ndarray, "kh kw i o"]
    bias: Float[Array | np.ndarray, " o"]


Weights = Mapping[str, Convolution]


class Features(NamedTuple):
    """Features of images, and logits of the network's classes."""

    features: Float[Array, "b d"]
    logits: Float[Array, "b k"]


def rgb(images: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w 3"]:
    """Returns grey or RGB images as RGB."""
    return jnp.broadcast_to(images, (*images.shape[:3], 3))


def convolve(
    x: Images,
    layer: Convolution,
    stride: int = 1,
    padding: Padding = (0, 0),
    activation: bool = True,
) -> Images:
    """Returns relu(x * kernel + bias); padding is zeros per side, or "SAME"."""
    y = lax.conv_general_dilated(
        x,
        jnp.asarray(layer.kernel),
        (stride, stride),
        padding if isinstance(padding, str) else [(n, n) for n in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_PRECISION,
    )
    y = y + layer.bias.reshape(1, 1, 1, -1)
    return jax.nn.relu(y) if activation else y


def max_pool(x: Images, stride: int, padding: int = 0) -> Images:
    """Returns the maximum over squares of 3x3 pixels."""
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), _around(padding)
    )


def average_pool(x: Images) -> Images:
    """Returns the mean over 3x3 pixels around each one, excluding the padding."""

    def sums(x: Images) -> Images:
        return lax.reduce_window(
            x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), _around(1)
        )

    return sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1)))


def resize(x: Images, height: int, width: int, half_pixel: bool) -> Images:
    """Resizes by bilinear interpolation, without antialiasing.

    Output i is at (i + 1/2) in / out - 1/2 if half_pixel (PyTorch's rule with
    align_corners=False), else at i in / out (TensorFlow 1's).
    """
    rows = _interpolation(x.shape[1], height, half_pixel)
    columns = _interpolation(x.shape[2], width, half_pixel)
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=_PRECISION)
    return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=_PRECISION)


def dense(x: Float[Array, "b i"], kernel: Float[Array, "i o"]) -> Float[Array, "b o"]:
    """Returns x kernel."""
    return jnp.dot(x, kernel, precision=_PRECISION)


def _interpolation(size: int, out: int, half_pixel: bool) -> Float[np.ndarray, "o i"]:
    shift = 0.5 if half_pixel else 0.0
    at = np.maximum((np.arange(out) + shift) * (size / out) - shift, 0.0)
    low = np.minimum(at.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((out, size), np.float32)
    np.add.at(matrix, (np.arange(out), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(out), high), at - low)
    return matrix


def _around(padding: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (padding, padding), (padding, padding), (0, 0)
