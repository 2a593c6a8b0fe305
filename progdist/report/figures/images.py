"""Grids of images, pixel for pixel."""

import base64
import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from progdist.workdir.files import write_whole

_MIN_PIXELS = 48  # below this an 8x8 digit cannot be read on a screen
_WHITE = 255
_MAX_ASPECT = 8
_MAX_EXACT, _QUALITY = 32, 90


def image_grid(
    images: UInt8[np.ndarray, "r c h w ch"],
    upscale: int | None = None,
    padding: int = 2,
) -> UInt8[np.ndarray, "H W ch"]:
    """Arranges images in r rows and c columns on a white background.

    Args:
      images: 1 (grey) or 3 (RGB) channels.
      upscale: integer factor by which pixels are repeated; by default the smallest
        that makes an image at least 48 pixels high and wide.
      padding: white pixels between images (not around the grid), not scaled.
    """
    r, c, h, w, ch = images.shape
    scale = least_upscale(h, w) if upscale is None else upscale
    scaled = images.repeat(scale, axis=2).repeat(scale, axis=3)
    room = ((0, 0), (0, 0), (0, padding), (0, padding), (0, 0))
    cells = np.pad(scaled, room, constant_values=_WHITE)
    height, width = h * scale + padding, w * scale + padding
    grid = cells.transpose(0, 2, 1, 3, 4).reshape(r * height, c * width, ch)
    return grid[: r * height - padding, : c * width - padding]


def least_upscale(h: int, w: int, pixels: int = _MIN_PIXELS) -> int:
    """Returns the smallest integer factor that makes both sides at least `pixels`.

    The longer side of thin images stays below `_MAX_ASPECT` times that, so that a
    figure of many fits into memory.
    """
    most = max(1, _MAX_ASPECT * pixels // max(h, w))
    return max(1, min(-(-pixels // min(h, w)), most))


def square_grid(images: UInt8[np.ndarray, "n h w ch"]) -> UInt8[np.ndarray, "H W ch"]:
    """Arranges n images in a nearly square grid; empty cells are white."""
    n = len(images)
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    blank = np.full((rows * columns - n, *images.shape[1:]), _WHITE, np.uint8)
    filled = np.concatenate([images, blank])
    return image_grid(filled.reshape(rows, columns, *images.shape[1:]))


def data_uri(images: UInt8[np.ndarray, "n h w ch"], columns: int, gap: int = 1) -> str:
    """Returns a grid of images as a data: URI, transparent between them.

    Images of at most 32 pixels per side are PNG, pixel for pixel; larger ones use lossy
    compression, to keep the page small.
    """
    n, h, w, ch = images.shape
    rows = -(-n // columns)
    opaque = np.full((n, h, w, 1), _WHITE, np.uint8)
    cells = np.concatenate([images, opaque], axis=-1)
    cells = np.pad(cells, ((0, rows * columns - n), (0, gap), (0, gap), (0, 0)))
    grid = cells.reshape(rows, columns, h + gap, w + gap, ch + 1)
    grid = grid.swapaxes(1, 2).reshape(rows * (h + gap), columns * (w + gap), ch + 1)
    grid = np.ascontiguousarray(grid[: rows * (h + gap) - gap])
    picture = Image.fromarray(grid[:, : columns * (w + gap) - gap])
    kind = "png" if max(h, w) <= _MAX_EXACT else "webp"
    file = io.BytesIO()
    if kind == "webp":
        picture = picture.convert("RGBA")
    picture.save(file, format=kind, optimize=True, quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def save_png(path: str | Path, image: UInt8[np.ndarray, "h w ch"]) -> Path:
    """Writes a grey or RGB image atomically and returns the path."""
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    return write_whole(path, lambda file: picture.save(file, format="PNG"))
