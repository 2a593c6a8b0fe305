"""Image files in every format that Pillow writes, and the notes inside them."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from progdist.report.figures.images import least_upscale, square_grid
from progdist.workdir.files import FormatError, write_whole

# Documents; icons, which hold a few sizes alone; one that Pillow will drop.
_OTHER_FORMATS = {"EPS", "PDF", "ICNS", "ICO", "IM"}
_OTHER_SUFFIXES = {".pbm", ".pfm"}  # promise bits and floats
_BARE_JPEG2000 = {".j2k", ".j2c", ".jpc"}
_LOSSY = {"quality": 95, "subsampling": "4:4:4"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "AVIF": _LOSSY | {"speed": 8},
    "JPEG": _LOSSY,
    "MPO": _LOSSY,
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True, "quality": 0},  # of effort, not of the image
}
_MAX_IMAGES, _MAX_PIXELS = 1 << 10, 1 << 26
_MAX_SIDE = 65500
_MAX_SIDES = {".avif": 32768, ".avifs": 32768, ".webp": 16383}
_NAMES_WIDTH = 700  # no column of names is wider
_MIN_FRAMES, _MAX_FRAMES = 4, 60
_MAX_FRAME_PIXELS, _MAX_GIF_PIXELS = 1 << 22, 1 << 23
_PALETTE_PIXELS = 1 << 12  # from which colours are chosen
_MOVING, _HELD = 150, 150  # hundredths of a second


@functools.cache
def picture_suffixes() -> tuple[str, ...]:
    """Returns the suffixes that `save_image` accepts, in lower case, sorted."""
    formats = Image.registered_extensions()
    accepted = {
        suffix
        for suffix, name in formats.items()
        if suffix not in _OTHER_SUFFIXES and _can_write(name)
    }
    return tuple(sorted(accepted))


def fits_picture(
    suffix: str, rows: int, columns: int, h: int, w: int, moving: bool = False
) -> bool:
    """Whether a grid has at most 1,024 images, 2**26 pixels, and the format's sides.

    Args:
      suffix: the file's.
      rows: rows of the grid.
      columns: columns of the grid; names may stand at its left.
      h: height of an image, before scaling.
      w: width of an image, before scaling.
      moving: whether it is an animation, of which each frame has at most 2**22 pixels.
    """
    scale = least_upscale(h, w)
    num_pixels = rows * columns * h * w * scale**2
    side = max(rows * (h * scale + 2), columns * (w * scale + 2) + _NAMES_WIDTH)
    return (
        rows * columns <= _MAX_IMAGES
        and num_pixels <= (_MAX_FRAME_PIXELS if moving else _MAX_PIXELS)
        and side <= _MAX_SIDES.get(suffix.lower(), _MAX_SIDE)
    )


def save_image(
    path: str | Path, image: UInt8[np.ndarray, "h w ch"], notes: dict[str, str]
) -> Path:
    """Writes a grey or RGB image atomically, in the format of the suffix.

    PNG, WebP, TIFF, JPEG 2000 and grey GIF are among those that keep the very pixels.

    Args:
      path: ends in one of `picture_suffixes`.
      image: 1 (grey) or 3 (RGB) channels.
      notes: what `read_notes` returns, at most some 10 kB; kept by PNG, JPEG, WebP,
        TIFF, AVIF, GIF and JPEG 2000.

    Raises:
      FormatError: if the suffix is not among `picture_suffixes`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in picture_suffixes():
        raise FormatError(
            f"{path}: must end in .png, .jpg, .webp, .tiff or another image suffix"
        )
    name = Image.registered_extensions()[suffix]
    options = _OPTIONS.get(name, {}) | _note_options(name, notes)
    if suffix in _BARE_JPEG2000:
        options["no_jp2"] = True
    picture = _picture(image, name)
    return write_whole(path, lambda file: picture.save(file, format=name, **options))


def save_gif(
    path: str | Path, frames: UInt8[np.ndarray, "t n h w ch"], notes: dict[str, str]
) -> Path:
    """Writes an animation of square grids, atomically.

    It lasts 3 seconds, half of them the last frame, and repeats. Of many frames it
    shows 60 that are evenly spaced, the first and the last among them; of large ones as
    many as have 2**23 pixels together, but at least 4. Grey levels are exact; RGB has
    255 colours per frame, and white between the images.

    Args:
      path: GIF file.
      frames: t grids of n images of 1 (grey) or 3 (RGB) channels.
      notes: as for `save_image`.
    """
    t, n, h, w, _ = frames.shape
    num_pixels = n * h * w * least_upscale(h, w) ** 2
    most = min(t, max(_MIN_FRAMES, min(_MAX_FRAMES, _MAX_GIF_PIXELS // num_pixels)))
    shown = np.linspace(0, t - 1, most).round().astype(int)
    first, *others = [_grid_picture(frames[i]) for i in shown]
    ends = np.linspace(0, _MOVING, most).round().astype(int)
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": others,
        "duration": [*(10 * np.diff(ends)).tolist(), 10 * _HELD],
        "loop": 0,
        **_note_options("GIF", notes),
    }
    return write_whole(path, lambda file: first.save(file, format="GIF", **options))


def read_notes(path: str | Path) -> dict[str, str]:
    """Returns the notes in a picture; empty if there are none.

    Raises:
      FormatError: if it is not a picture.
    """
    try:
        with Image.open(path) as picture:
            if isinstance(picture, PngImageFile):
                return {key: str(value) for key, value in picture.text.items()}
            exif = picture.getexif().get(ExifTags.Base.ImageDescription)
            text = picture.info.get("comment") or exif or "{}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "is not a picture"
        raise FormatError(f"{path}: {reason}") from None
    try:
        notes = json.loads(text)
    except (TypeError, ValueError):  # of other software
        return {}
    is_ours = isinstance(notes, dict)
    return {key: str(value) for key, value in notes.items()} if is_ours else {}


def _note_options(name: str, notes: dict[str, str]) -> dict[str, Any]:
    """Returns Pillow's options that put notes into a file of a format."""
    # A path may hold bytes that are not text.
    notes = {
        key: value.encode(errors="backslashreplace").decode()
        for key, value in notes.items()
    }
    match name:
        case "PNG":
            info = PngInfo()
            for key, value in notes.items():
                info.add_text(key, value)
            return {"pnginfo": info}
        case "JPEG" | "MPO" | "WEBP" | "AVIF" | "TIFF":
            exif = Image.Exif()
            exif[ExifTags.Base.ImageDescription] = json.dumps(notes)
            exif[ExifTags.Base.Software] = notes.get("software", "progdist")
            return {"exif": exif}
        case "GIF" | "JPEG2000":
            return {"comment": json.dumps(notes).encode()}
    return {}


def _picture(image: UInt8[np.ndarray, "h w ch"], name: str) -> Image.Image:
    """Returns an image in a mode that a format can hold."""
    if name == "GIF":
        return _paletted(*_quantize(image))
    if image.shape[-1] == 3:
        return Image.fromarray(image)
    picture = Image.fromarray(image[..., 0])
    return picture.convert("RGB") if name == "QOI" else picture  # knows no grey


@functools.cache
def _can_write(name: str) -> bool:
    """Whether Pillow writes and reads small images in a format."""
    if name in _OTHER_FORMATS or name not in Image.SAVE:
        return False
    for ch in (1, 3):
        file = io.BytesIO()
        try:
            picture = _picture(np.zeros((8, 8, ch), np.uint8), name)
            picture.save(file, format=name, **_OPTIONS.get(name, {}))
            Image.open(file).load()
        except (OSError, ValueError):
            return False
    return True


def _quantize(
    image: UInt8[np.ndarray, "h w ch"],
) -> tuple[UInt8[np.ndarray, "h w"], bytes]:
    """Returns an image as indices into a palette of 256 colours; the last is white."""
    if image.shape[-1] == 1:
        return image[..., 0], bytes(level for level in range(256) for _ in "RGB")
    pixels = image.reshape(1, -1, 3)
    some = pixels[:, :: pixels.shape[1] // _PALETTE_PIXELS | 1]  # odd: of all columns
    few = Image.fromarray(np.ascontiguousarray(some)).quantize(255, kmeans=1)
    indexed = Image.fromarray(image).quantize(palette=few, dither=Image.Dither.NONE)
    colours = bytes(few.getpalette() or ())[:765]
    return np.asarray(indexed), colours.ljust(768, b"\xff")


def _paletted(indices: UInt8[np.ndarray, "h w"], palette: bytes) -> Image.Image:
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette)
    return picture


def _grid_picture(images: UInt8[np.ndarray, "n h w ch"]) -> Image.Image:
    """Returns a square grid whose colours are chosen from the images alone."""
    n, h, w, ch = images.shape
    indices, palette = _quantize(images.reshape(n * h, w, ch))
    return _paletted(square_grid(indices.reshape(n, h, w, 1))[..., 0], palette)
