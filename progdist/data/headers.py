"""Recognises an image file by its first bytes, and reads its header alone.

PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF (if Pillow has it), and binary or plain PBM, PGM
and PPM. An image that is too large is refused before it is decoded, as is a file of
several images.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

Size = tuple[int, int]

MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
# Decoded by Pillow in Python, at about a megapixel per second.
MAX_SLOW_PIXELS = 1 << 23
PNG = b"\x89PNG\r\n\x1a\n"
_SLOW_DECODERS = "bmp_rle", "ppm", "ppm_plain"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
# By class, since Image.open mistakes a phone's JPEG file of two pictures for an
# animation, and has a size limit of its own.
_FORMATS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (re.escape(PNG), PngImagePlugin.PngImageFile),
    (rb"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    (rb"BM", BmpImagePlugin.BmpImageFile),
    (rb"II\*\0|MM\0\*", TiffImagePlugin.TiffImageFile),
    (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    (rb"....ftyp(avif|avis|mif1|msf1)", AvifImagePlugin.AvifImageFile),
    (rb"P[1-6]\s", PpmImagePlugin.PpmImageFile),
)
NAMES = "PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or PPM"

# Pillow's messages do not name the file; an ImageError does say what is wrong.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class ImageError(ValueError):
    """A file cannot be used; the message is the reason, without the file's name."""


def open_image(encoded: bytes) -> ImageFile.ImageFile:
    """Reads the header alone.

    Raises:
      ImageError: if it is of another format, animated, of several pages or too large.
    """
    with reasons():
        opener = _opener(encoded)
        if opener is WebPImagePlugin.WebPImageFile:
            _check_size(webp_size(encoded))  # opening it would allocate the memory
        image = opener(io.BytesIO(encoded))
        slow = image.tile and image.tile[0][0] in _SLOW_DECODERS
        _check_size(image.size, MAX_SLOW_PIXELS if slow else MAX_PIXELS)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image)
        elif getattr(image, "is_animated", False):
            raise ImageError("animated")
    return image


def is_webp(encoded: bytes) -> bool:
    """Whether the first bytes are those of a WebP file."""
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"


def webp_size(encoded: bytes) -> Size:
    """Reads width and height from a WebP header: any of three kinds (RFC 9649)."""
    word = int.from_bytes(encoded[21:25], "little")
    match encoded[12:16]:
        case b"VP8 ":
            sides = encoded[26:28], encoded[28:30]
            width, height = (int.from_bytes(side, "little") & 0x3FFF for side in sides)
        case b"VP8L":
            width, height = (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1
        case b"VP8X":
            sides = encoded[24:27], encoded[27:30]
            width, height = (int.from_bytes(side, "little") + 1 for side in sides)
        case _:
            raise ImageError("not decodable: broken WebP header")
    return width, height


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Turns any exception of a decoder into an ImageError of one line."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, …
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"not decodable: {reason}") from error


def _opener(encoded: bytes) -> type[ImageFile.ImageFile]:
    for pattern, opener in _FORMATS:
        if re.match(pattern, encoded, re.DOTALL):
            return opener
    raise ImageError(f"not {NAMES}" if encoded else "empty")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    if image.is_animated:
        raise ImageError("of several pages")
    tile = [image.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    _check_size((tile[0], tile[1]))  # a tile may be larger than the image


def _check_size(size: Size, limit: int = MAX_PIXELS) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError("without pixels")
    if width * height > limit:
        raise ImageError(
            f"{width}x{height} pixels, above the limit of {limit >> 20} megapixels"
        )
