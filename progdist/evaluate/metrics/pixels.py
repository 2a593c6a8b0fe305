"""Pixels as features: no network, and no FID."""

import numpy as np
from jaxtyping import Float, UInt8

MOST_PIXELS = 32  # a side; 3,072 features in colour


def pixel_features(
    images: UInt8[np.ndarray, "b h w c"], most_pixels: int = MOST_PIXELS
) -> Float[np.ndarray, "b d"]:
    """Returns images as vectors of pixels in [-1, 1], in float64.

    Images larger than `most_pixels` a side are first averaged over squares, as their
    covariance would not fit into memory; a rest at the edges is cut off.
    """
    b, h, w, c = images.shape
    k = _square((h, w), most_pixels)
    rows, columns = h // k, w // k
    images = images[:, : rows * k, : columns * k]
    x = images.reshape(b, rows, k, columns, k, c).mean((2, 4))
    return x.reshape(b, rows * columns * c) / 127.5 - 1.0


def pixels_name(image_shape: tuple[int, ...], most_pixels: int = MOST_PIXELS) -> str:
    """Returns what the features are called, by the size to which images are brought."""
    square = _square(image_shape, most_pixels)
    side = max(image_shape[:2]) // square
    return "pixels" if square == 1 else f"pixels{side}"


def _square(image_shape: tuple[int, ...], most_pixels: int) -> int:
    """The side of squares of which at most `most_pixels` fit along the image."""
    return -(-max(image_shape[:2]) // most_pixels)
