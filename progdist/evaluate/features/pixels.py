"""Pixels as features, without a network; their distance is not an FID."""

import numpy as np
from jaxtyping import Float, UInt8

MAX_SIDE = 32  # 3,072 features in colour


def pixel_features(
    images: UInt8[np.ndarray, "b h w c"], max_side: int = MAX_SIDE
) -> Float[np.ndarray, "b d"]:
    """Returns images as vectors of pixels in [-1, 1], in float64.

    Images with more than `max_side` pixels per side are first averaged over squares,
    since their covariance would not fit into memory; a remainder at the edges is
    cropped. Of an image thinner than the squares, they are as high, or wide, as it is.
    """
    b, h, w, c = images.shape
    k = _square((h, w), max_side)
    high, wide = min(k, h), min(k, w)
    rows, columns = h // high, w // wide
    images = images[:, : rows * high, : columns * wide]
    x = images.reshape(b, rows, high, columns, wide, c).mean((2, 4))
    return x.reshape(b, rows * columns * c) / 127.5 - 1.0


def pixels_label(image_shape: tuple[int, ...], max_side: int = MAX_SIDE) -> str:
    """Returns the label of the features, with the side of reduced images."""
    square = _square(image_shape, max_side)
    return "pixels" if square == 1 else f"pixels{max(image_shape[:2]) // square}"


def _square(image_shape: tuple[int, ...], max_side: int) -> int:
    """Returns the side of the squares to average over."""
    return -(-max(image_shape[:2]) // max_side)
