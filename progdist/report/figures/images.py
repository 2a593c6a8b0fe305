"""Grids of images, pixel for pixel."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from progdist.workdir.files import write_whole

_MIN_PIXELS = 48  # below this an 8x8 digit cannot be read on a screen
_WHITE = 255
_MAX_ASPECT = 8
_MAX_EXACT, _QUALITY = 32, 90
_MIN_LETTER, _MAX_LETTER = 12, 40  # pixels
_MAX_LETTERS = 16  # of the width of their height


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


def square_sides(n: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns of a nearly square grid of n images."""
    columns = math.isqrt(n - 1) + 1
    return -(-n // columns), columns


def square_grid(images: UInt8[np.ndarray, "n h w ch"]) -> UInt8[np.ndarray, "H W ch"]:
    """Arranges n images in a nearly square grid; empty cells are white."""
    n = len(images)
    rows, columns = square_sides(n)
    blank = np.full((rows * columns - n, *images.shape[1:]), _WHITE, np.uint8)
    filled = np.concatenate([images, blank])
    return image_grid(filled.reshape(rows, columns, *images.shape[1:]))


def label_rows(
    images: UInt8[np.ndarray, "r c h w ch"], names: Sequence[str]
) -> UInt8[np.ndarray, "H W ch"]:
    """Arranges images as `image_grid` does, with the name of each row at its left.

    Names are black on white. Long ones end in an ellipsis; characters that do not print
    are spaces, and those that the font lacks are boxes.

    Args:
      images: r rows of c images of 1 (grey) or 3 (RGB) channels.
      names: r names.
    """
    scale = least_upscale(*images.shape[2:4])
    missing = max(0, 2 * _MIN_LETTER - images.shape[2] * scale)  # to the least height
    room = ((0, 0), (0, 0), (0, -(-missing // scale)), (0, 0), (0, 0))
    images = np.pad(images, room, constant_values=_WHITE)
    r, _, h, _, ch = images.shape
    labels = _name_column(names, h * scale)
    grid = image_grid(labels.reshape(r, 1, h * scale, -1, 1), upscale=1)
    return np.concatenate([grid.repeat(ch, axis=-1), image_grid(images, scale)], axis=1)


def _name_column(names: Sequence[str], height: int) -> UInt8[np.ndarray, "r h w"]:
    """Returns names as images of one width, each ending a gap before the right."""
    size = int(np.clip(height // 3, _MIN_LETTER, _MAX_LETTER))
    # The figures' font, which knows more letters than Pillow's.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(path, size)
    texts = [_shorten(name, font, _MAX_LETTERS * size) for name in names]
    width = math.ceil(max(map(font.getlength, texts))) + size
    column = np.empty((len(texts), height, width), np.uint8)
    for i, text in enumerate(texts):
        picture = Image.new("L", (width, height), _WHITE)
        at = width - size // 2, height / 2
        ImageDraw.Draw(picture).text(at, text, fill=0, font=font, anchor="rm")
        column[i] = np.asarray(picture)
    return column


def _shorten(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns a name without what does not print, cut to a width in pixels."""
    text = "".join(letter if letter.isprintable() else " " for letter in name[:99])
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


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
