"""Decodes the bytes of one image file to the pixels for a network.

The size is read from the header (`progdist.data.headers`), colours become opaque 8-bit
sRGB (`progdist.data.colours`), and grey becomes colour or colour grey. Then the image
is turned upright, cropped to the centre and resized.

JPEG, WebP and most of the others have no checksums: damage within their pixels can go
unnoticed.
"""

import contextlib
import threading
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt8
from PIL import Image, ImageFile

from progdist.config.settings import ImageShape
from progdist.data import colours, headers
from progdist.data.headers import (
    MAX_BYTES as MAX_BYTES,
    ImageError as ImageError,
    Size,
    open_image,
    reasons,
)

Box = tuple[int, int, int, int]
Filter = Literal["area", "triangle"]

# Larger images are decoded one at a time: at 64 megapixels WebP takes 1 GB.
LARGE_PIXELS = 1 << 23
# The decoder shrinks a JPEG by 2, 4 or 8 if it stays this many times larger than the
# target size. That is much faster, and exact to about a tenth of a level. Means over
# areas are exact, and take the whole image.
DRAFT_RATIO = 4
_MAX_SIDE = 1 << 16  # of a JPEG
_ORIENTATION = 0x0112
_TRANSPOSES = (  # for the orientations 2 to 8
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
_MODES = {1: "L", 3: "RGB"}
one_large = threading.RLock()


class Rules(NamedTuple):
    """Rules by which images are accepted.

    Attributes:
      background: colour behind transparent pixels; "" refuses them.
      min_size: least height and width, in pixels.
    """

    background: str = ""
    min_size: int = 0

    def stamp(self) -> int:
        """Returns a number that changes with the images accepted; 0 by default."""
        rules = self._replace(background="x" * bool(self.background))
        return zlib.crc32(repr(rules).encode()) if rules != Rules() else 0


def decode(
    encoded: bytes,
    image_shape: ImageShape,
    filter: Filter,
    upright: bool,
    background: str = "",
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes an image; crops it to the centre and resizes it if the size differs.

    Args:
      encoded: the whole file.
      image_shape: (height, width, channels), with 1 or 3 channels.
      filter: filter of the resizing.
      upright: whether to apply the EXIF orientation.
      background: colour behind transparent pixels; "" refuses them.

    Raises:
      ImageError: if it cannot be decoded, or is animated, transparent or too large.
    """
    height, width, channels = image_shape
    least = DRAFT_RATIO * max(height, width) if filter == "triangle" else _MAX_SIDE
    with reasons(), _opened(encoded, least) as (image, full, shrink):
        pixels = colours.opaque(image, background).convert(_MODES[channels])
        orientation = _orientation(image) if upright else 1
        if orientation > 1:
            pixels = pixels.transpose(_TRANSPOSES[orientation - 2])
            full = (full[1], full[0]) if orientation > 4 else full
        if pixels.size == (width, height):
            resized = np.asarray(pixels)
        else:
            left, top, right, bottom = centred_box(full, height, width)
            box = left / shrink, top / shrink, right / shrink, bottom / shrink
            resized = resize(pixels, box, height, width, filter)
    return resized.reshape(image_shape)


def verify(encoded: bytes, rules: Rules = Rules()) -> int:  # noqa: B008, immutable
    """Refuses what `decode` and the rules refuse, and PNGs that are damaged.

    Returns:
      A bound on the values of a 16-bit image, exact for grey; 0 for 8 bits.

    Raises:
      ImageError: with the reason.
    """
    with reasons(), _opened(encoded, least=32) as (image, full, _):
        if min(full) < rules.min_size:
            size = f"{full[0]}x{full[1]} pixels"
            raise ImageError(f"{size}, below data.min_size={rules.min_size}")
        deep = colours.is_16_bit(image)
        colours.opaque(image, rules.background)
        highest = colours.highest(image) if deep else 0
    if encoded.startswith(headers.PNG):
        with open_image(encoded) as image, reasons():
            image.verify()
    return highest


def crop_and_resize(
    image: Image.Image, height: int, width: int, filter: Filter
) -> UInt8[np.ndarray, "h w *c"]:
    """Crops to the largest centred part of the aspect ratio; resizes, antialiased."""
    box = centred_box(image.size, height, width)
    return resize(image, box, height, width, filter)


def resize(
    image: Image.Image,
    box: tuple[float, float, float, float] | Box,
    height: int,
    width: int,
    filter: Filter,
) -> UInt8[np.ndarray, "h w *c"]:
    """Resizes the part of an image in the box, which is of whole pixels for "area"."""
    if filter == "triangle":
        small = image.resize((width, height), Image.Resampling.BILINEAR, box)
        return np.asarray(small)
    left, top, right, bottom = map(int, box)
    return area_means(np.asarray(image)[top:bottom, left:right], height, width)


def area_means(
    pixels: UInt8[np.ndarray, "n m *c"], height: int, width: int
) -> UInt8[np.ndarray, "h w *c"]:
    """Returns the mean over each of height x width equal areas, rounded half up.

    Exact, whereas Pillow's BOX filter takes whole pixels.
    """
    rows = _area_sums(pixels, height)
    sums = _area_sums(rows.swapaxes(0, 1), width).swapaxes(0, 1)
    size = pixels.shape[0] * pixels.shape[1]
    return ((2 * sums + size) // (2 * size)).astype(np.uint8)


def _area_sums(
    pixels: Integer[np.ndarray, "n *d"], count: int
) -> Int64[np.ndarray, "count *d"]:
    """Returns `count` times the integral over each of `count` equal parts.

    Along the first axis, in which a pixel is `count` units long and a part is n.
    """
    whole, rest = np.divmod(np.arange(count + 1) * len(pixels), count)
    padded = np.concatenate([pixels, pixels[-1:]])  # the last edge takes 0 units of it
    inside = np.add.reduceat(padded, whole, axis=0, dtype=np.int64)[:-1]
    inside[np.diff(whole) == 0] = 0  # of no pixel `reduceat` gives the next one
    cut = rest.reshape(-1, *[1] * (pixels.ndim - 1)) * padded[whole]
    return count * inside + np.diff(cut, axis=0)


def centred_box(size: Size, height: int, width: int) -> Box:
    """Returns left, top, right, bottom of the largest centred crop of the aspect."""
    scale = min(size[0] / width, size[1] / height)
    crop_width, crop_height = round(width * scale), round(height * scale)
    left, top = (size[0] - crop_width) // 2, (size[1] - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


@contextlib.contextmanager
def _opened(
    encoded: bytes, least: int
) -> Iterator[tuple[ImageFile.ImageFile, Size, float]]:
    """Yields an image, its full size, and the factor by which a JPEG is shrunk.

    While one large image is open, no other is.
    """
    with contextlib.ExitStack() as stack:
        if headers.is_webp(encoded) and _is_large(headers.webp_size(encoded)):
            stack.enter_context(one_large)
        image = stack.enter_context(open_image(encoded))
        full, draft = image.size, image.draft(None, (least, least))
        # A progressive JPEG keeps all coefficients in memory, however much it shrinks.
        if _is_large(full if "progressive" in image.info else image.size):
            stack.enter_context(one_large)
        yield image, full, full[0] / draft[1][2] if draft else 1.0


def _is_large(size: Size) -> bool:
    return size[0] * size[1] > LARGE_PIXELS


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) if EXIF is unreadable."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many kinds
        return 1
    return int(orientation) if orientation in range(1, 9) else 1
