"""Decodes an opened image file to opaque 8-bit sRGB.

Of 16-bit values the high byte is used. Palettes and CMYK are converted to RGB, and
colours with an ICC profile to sRGB, with perceptual intent. A profile that is broken or
belongs to another kind of image is ignored, as browsers do: the pixels are intact.
"""

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from progdist.data.headers import ImageError

# By raw mode: the bits of a transparent level that count (W3C PNG specification,
# section 11.3.2.1), and the factor by which Pillow widens levels, but not that one.
_KEYS = {
    "1": (1, 1),
    "L;2": (3, 85),
    "L;4": (15, 17),
    "I;16B": (0xFFFF, 1),
    "RGB;16B": (0xFFFF, 1),
}
# Flags of lcms: threads share a transform; dark greys are exact.
_NO_CACHE, _NO_OPTIMISATION = 0x40, 0x100


def opaque(image: ImageFile.ImageFile, background: str = "") -> Image.Image:
    """Decodes an image to grey (L), RGB, or CMYK without a profile.

    Args:
      image: an image that has not been decoded yet.
      background: colour behind transparent pixels; "" refuses them.

    Raises:
      ImageError: if pixels are transparent without a background, or have 32 bits.
    """
    colour, alpha = _split(image)
    profile = image.info.get("icc_profile")
    transform = _to_srgb(profile, colour.mode) if profile else None
    if transform:
        colour = transform(colour)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colour
    if not background:
        raise ImageError("transparent in places; data.background fills it")
    ground = Image.new("RGB", colour.size, background)
    return Image.composite(colour.convert("RGB"), ground, alpha)


def is_16_bit(image: ImageFile.ImageFile) -> bool:
    """Whether an image that has not been decoded yet stores 16 bits per value."""
    return ";16" in _rawmode(image)


def highest(image: Image.Image) -> int:
    """Returns a bound on the values of a decoded 16-bit image; exact for grey."""
    extrema: Any = image.getextrema()
    if image.mode.startswith("I"):
        return int(extrema[1])
    return max(high for _, high in extrema[:3]) << 8 | 0xFF


def _split(image: ImageFile.ImageFile) -> tuple[Image.Image, Image.Image | None]:
    """Decodes to L, RGB or CMYK, and the alpha channel if there is one."""
    rawmode, file = _rawmode(image), image.fp
    image.load()
    if not image.has_transparency_data:
        return _colour(image), None
    if image.mode == "P" or "transparency" not in image.info:
        mixed = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        return _colour(mixed), mixed.getchannel("A")
    key = image.info.pop("transparency")
    levels = np.asarray(image, np.uint16)
    if rawmode == "RGB;16B":
        levels = levels << 8 | _low_bytes(file)
    mask, factor = _KEYS.get(rawmode, (0xFF, 1))
    clear = levels == (np.array(key) & mask) * factor
    clear = clear.all(-1) if clear.ndim == 3 else clear
    return _colour(image), _alpha(clear)


def _colour(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # Pillow's own conversion clips at 255 instead.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("of 32-bit or signed values")
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _alpha(clear: Bool[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))


def _low_bytes(file: Any) -> np.ndarray:
    """Decodes the low bytes of 16-bit colours, of which Pillow takes the high ones."""
    with PngImagePlugin.PngImageFile(io.BytesIO(file.getvalue())) as image:
        image.tile = [image.tile[0]._replace(args="RGB;16L")]
        return np.asarray(image)


@functools.lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Returns the transform of a profile; None if it changes nothing or is unusable."""
    flag = _NO_OPTIMISATION if mode == "L" else _NO_CACHE
    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile),  # pyright: ignore[reportArgumentType]
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            flags=ImageCms.Flags(flag),
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    probe = _probe(mode)
    before, after = np.asarray(probe.convert("RGB"), int), transform.apply(probe)
    if abs(np.asarray(after) - before).max() <= 1:
        return None
    if mode == "L":
        levels = list(after.getchannel("G").tobytes())
        return lambda image: image.point(levels)
    return transform.apply


def _probe(mode: str) -> Image.Image:
    """Returns an image of colours from all over a colour space."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    mesh = np.meshgrid(*[steps] * len(mode), indexing="ij")
    return Image.fromarray(np.stack(mesh, -1).reshape(1, -1, len(mode)), mode)


def _rawmode(image: ImageFile.ImageFile) -> str:
    args: Any = image.tile[0][3] if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)
