"""Decodes the bytes of one image file to the pixels for a network.

The formats are PNG, JPEG and WebP, recognised by their first bytes. The size is read
from the header, and an image that is too large is refused before it is decoded. Of
16-bit values the high byte is used; palettes and CMYK are converted to RGB, and grey to
colour or back. An opaque alpha channel is dropped; any transparency is refused, since
the file does not hold the background. Colour profiles are ignored: values are assumed
to be sRGB.

JPEG and WebP have no checksums: damage within their pixels can go unnoticed.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from progdist.data.settings import ImageShape

Size = tuple[int, int]
Box = tuple[int, int, int, int]

MAX_PIXELS = 1 << 26
MAX_BYTES = 1 << 28
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
_PNG = b"\x89PNG\r\n\x1a\n"

# Pillow's warnings do not name the file; an ImageError does say what is wrong.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """A file cannot be used; the message is the reason, without the file's name."""


def decode(
    encoded: bytes, image_shape: ImageShape, filter: Image.Resampling, upright: bool
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes an image; crops it to the centre and resizes it if the size differs.

    Args:
      encoded: the whole file.
      image_shape: (height, width, channels), with 1 or 3 channels.
      filter: resampling filter; antialiased.
      upright: whether to apply the EXIF orientation.

    Raises:
      ImageError: if it cannot be decoded, or is animated, transparent or too large.
    """
    height, width, channels = image_shape
    least = DRAFT_RATIO * max(height, width)
    with _reasons(), _opened(encoded, least) as (image, full, shrink):
        pixels = _opaque(image).convert(_MODES[channels])
        orientation = _orientation(image) if upright else 1
        if orientation > 1:
            pixels = pixels.transpose(_TRANSPOSES[orientation - 2])
            full = (full[1], full[0]) if orientation > 4 else full
        if pixels.size != (width, height):
            box = (side / shrink for side in centred_box(full, height, width))
            left, top, right, bottom = box
            pixels = pixels.resize((width, height), filter, (left, top, right, bottom))
    return np.asarray(pixels, np.uint8).reshape(image_shape)


def verify(encoded: bytes) -> None:
    """Refuses the same files as `decode`, and PNGs with a bad checksum or cut short.

    Raises:
      ImageError: with the reason.
    """
    decode(encoded, (8, 8, 3), Image.Resampling.BILINEAR, upright=True)
    if encoded.startswith(_PNG):
        with open_image(encoded) as image, _reasons():
            image.verify()


def open_image(encoded: bytes) -> ImageFile.ImageFile:
    """Reads the header alone.

    Raises:
      ImageError: if it is of another format, animated or too large.
    """
    # By class, since Image.open mistakes a phone's JPEG file of two pictures for an
    # animation, and has a size limit of its own.
    with _reasons():
        if encoded.startswith(_PNG):
            image = PngImagePlugin.PngImageFile(io.BytesIO(encoded))
        elif encoded.startswith(b"\xff\xd8\xff"):
            image = JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
        elif _is_webp(encoded):
            _check_size(*_webp_size(encoded))  # opening it would allocate the memory
            image = WebPImagePlugin.WebPImageFile(io.BytesIO(encoded))
        else:
            raise ImageError("empty" if not encoded else "not PNG, JPEG or WebP")
    _check_size(*image.size)
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated")
    return image


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
        if _is_webp(encoded) and _is_large(_webp_size(encoded)):
            stack.enter_context(one_large)
        image = stack.enter_context(open_image(encoded))
        full, draft = image.size, image.draft(None, (least, least))
        # A progressive JPEG keeps all coefficients in memory, however much it shrinks.
        if _is_large(full if "progressive" in image.info else image.size):
            stack.enter_context(one_large)
        yield image, full, full[0] / draft[1][2] if draft else 1.0


def _is_large(size: Size) -> bool:
    return size[0] * size[1] > LARGE_PIXELS


def _is_webp(encoded: bytes) -> bool:
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"


def _check_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise ImageError("without pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width}x{height} pixels, above the limit of {MAX_PIXELS >> 20} megapixels"
        )


def _webp_size(encoded: bytes) -> Size:
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


def _opaque(image: ImageFile.ImageFile) -> Image.Image:
    """Decodes to a mode that Pillow converts correctly; refuses transparency."""
    if image.mode == "L" and "transparency" in image.info:
        # Pillow widens greys of two and four bits, but not their transparent level.
        factor = {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]), 1)
        image.info["transparency"] *= factor
    image.load()
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        raise ImageError("transparent in places")
    return rgba


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Returns the high byte of each 16-bit grey value, as Pillow does for colours.

    Pillow's own conversion of greys clips at 255 instead.
    """
    levels = np.asarray(image)
    if (levels == image.info.get("transparency", -1)).any():
        raise ImageError("transparent in places")
    return Image.fromarray((levels >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) if EXIF is unreadable."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many kinds
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns any exception of a decoder into an ImageError of one line."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, …
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ImageError(f"not decodable: {reason}") from error
