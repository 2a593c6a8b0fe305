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
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
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

# Larger images are decoded one at a time: at 64 megapixels WebP takes 1 GB.
LARGE_PIXELS = 1 << 23
# The decoder shrinks a JPEG by 2, 4 or 8 if it stays this many times larger than the
# target size. That is much faster, and exact to about a tenth of a level.
DRAFT_RATIO = 4
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
    filter: Image.Resampling,
    upright: bool,
    background: str = "",
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes an image; crops it to the centre and resizes it if the size differs.

    Args:
      encoded: the whole file.
      image_shape: (height, width, channels), with 1 or 3 channels.
      filter: resampling filter; antialiased.
      upright: whether to apply the EXIF orientation.
      background: colour behind transparent pixels; "" refuses them.

    Raises:
      ImageError: if it cannot be decoded, or is animated, transparent or too large.
    """
    height, width, channels = image_shape
    least = DRAFT_RATIO * max(height, width)
    with reasons(), _opened(encoded, least) as (image, full, shrink):
        pixels = colours.opaque(image, background).convert(_MODES[channels])
        orientation = _orientation(image) if upright else 1
        if orientation > 1:
            pixels = pixels.transpose(_TRANSPOSES[orientation - 2])
            full = (full[1], full[0]) if orientation > 4 else full
        if pixels.size != (width, height):
            box = (side / shrink for side in centred_box(full, height, width))
            left, top, right, bottom = box
            pixels = pixels.resize((width, height), filter, (left, top, right, bottom))
    return np.asarray(pixels, np.uint8).reshape(image_shape)


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
    image: Image.Image, height: int, width: int, filter: Image.Resampling
) -> Image.Image:
    """Crops to the largest centred part of the aspect ratio; resizes, antialiased."""
    return image.resize((width, height), filter, centred_box(image.size, height, width))


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
