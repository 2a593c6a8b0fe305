"""Image files of every kind, good and bad, some of them made by hand."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from progdist import data
from tests.originals import image_of, smooth_image_of

SHAPE = (4, 6, 3)


def encoded(image, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    key: bytes = b"",
    palette: bytes = b"",
) -> bytes:
    """A PNG made by hand (W3C PNG specification): header, palette, key, pixels, end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def webp(kind: bytes, content: bytes) -> bytes:
    """A WebP file of one chunk (RFC 9649)."""
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A grey TIFF of one strip of 64 bytes (TIFF 6.0), with more tags of one number."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 279: 64}
    tags |= dict(more)
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return (b"II*\0\x48\0\0\0" + b"\0" * 64 + struct.pack("<H", len(tags))) + b"".join(
        [*entries, b"\0" * 4]
    )


def bmp(width: int, height: int) -> bytes:
    """A small BMP whose header announces another size."""
    content = bytearray(encoded(PIXELS, "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def resized_jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose frame header announces another size."""
    jpeg = bytearray(encoded(PIXELS, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(jpeg)


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def open_folder(root: Path, shape=SHAPE, **options):
    return data.open_source("folder", dir=str(root), image_shape=shape, **options)


PIXELS = image_of(1, 4, 6)
GOOD = encoded(PIXELS)
CLEAR = np.dstack([PIXELS, np.full((4, 6), 254, np.uint8)])
FRAMES = [Image.fromarray(image_of(i, 4, 6)) for i in range(3)]
ANIMATION = {"save_all": True, "append_images": FRAMES[1:], "duration": 50}
PAGES = {"save_all": True, "append_images": FRAMES[1:]}
FLIPPED = bytearray(GOOD)
FLIPPED[len(GOOD) // 2] ^= 4

BAD = {
    "empty": (b"", "empty"),
    "text": (b"It was a bright cold day in April\n", "not PNG, JPEG, WebP, BMP"),
    "icon": (encoded(PIXELS, "ICO", sizes=[(6, 4)]), "not PNG, JPEG, WebP, BMP"),
    "header only": (GOOD[:30], "not decodable"),
    "half a PNG": (GOOD[: len(GOOD) // 2], "not decodable"),
    "PNG without its end": (GOOD[:-12], "not decodable"),
    "flipped bit": (bytes(FLIPPED), "not decodable"),
    "half a JPEG": (encoded(smooth_image_of(1, 99, 99), "JPEG")[:-400], "truncated"),
    "half a WebP": (encoded(PIXELS, "WEBP")[:-20], "not decodable"),
    "WebP header": (b"RIFF\0\0\0\0WEBP", "not decodable"),
    "RGBA": (encoded(CLEAR), "transparent in places"),
    "LA": (encoded(np.ascontiguousarray(CLEAR[..., 2:])), "transparent in places"),
    "transparent WebP": (encoded(CLEAR, "WEBP", lossless=True), "transparent"),
    "palette": (encoded(Image.fromarray(PIXELS).quantize(8), transparency=0), "transp"),
    "key colour": (
        encoded(PIXELS, transparency=(37, 97, 157)),
        "transparent in places",
    ),
    "4-bit key": (png(2, 1, 4, 0, b"\0\xf0", b"\0\x0f"), "transparent in places"),
    "2-bit key": (png(2, 1, 2, 0, b"\0\xc0", b"\0\x03"), "transparent in places"),
    "APNG": (encoded(FRAMES[0], **ANIMATION), "animated"),
    "moving WebP": (encoded(FRAMES[0], "WEBP", **ANIMATION), "animated"),
    "huge PNG": (png(60000, 60000, 8, 2, b""), "60000x60000 pixels, above the limit"),
    "huge JPEG": (resized_jpeg(60000, 50000), "60000x50000 pixels, above"),
    "huge VP8": (
        webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
        "16383x16383 pixels, above",
    ),
    "huge VP8L": (webp(b"VP8L", b"\x2f" + b"\xff" * 9), "16384x16384 pixels, above"),
    "huge VP8X": (webp(b"VP8X", b"\0" * 4 + b"\xff" * 6), "16777216x16777216 pixels"),
    "huge BMP": (bmp(60000, 60000), "60000x60000 pixels, above"),
    "huge GIF": (b"GIF89a" + b"\xff" * 4 + encoded(PIXELS, "GIF")[10:], "65535x65535"),
    "huge TIFF": (tiff(60000, 60000), "60000x60000 pixels, above"),
    "huge tile": (tiff(8, 8, (322, 40000), (323, 40000)), "40000x40000 pixels, above"),
    "huge PPM": (b"P6 60000 60000 255\n", "60000x60000 pixels, above"),
    "large text": (
        b"P3 4000 4000 255\n0",
        "4000x4000 pixels, above the limit of 8 meg",
    ),
    "half a BMP": (encoded(PIXELS, "BMP")[:-9], "truncated"),
    "half a GIF": (encoded(PIXELS, "GIF")[:-9], "truncated"),
    "half a TIFF": (encoded(PIXELS, "TIFF", compression="tiff_lzw")[:-60], "not dec"),
    "half a PPM": (encoded(PIXELS, "PPM")[:-1], "truncated"),
    "half an AVIF": (encoded(PIXELS, "AVIF")[:-9], "not decodable"),
    "PPM without pixels": (b"P6 0 4 255\n", "not decodable|without pixels"),
    "moving GIF": (encoded(FRAMES[0], "GIF", **ANIMATION), "animated"),
    "moving AVIF": (encoded(FRAMES[0], "AVIF", **ANIMATION), "animated"),
    "pages": (encoded(FRAMES[0], "TIFF", **PAGES), "of several pages"),
    "floats": (encoded(np.zeros((4, 6), np.float32), "TIFF"), "of 32-bit"),
    "integers": (encoded(np.zeros((4, 6), np.int32), "TIFF"), "of 32-bit"),
    "transparent TIFF": (encoded(CLEAR, "TIFF"), "transparent in places"),
    "transparent AVIF": (encoded(CLEAR, "AVIF"), "transparent in places"),
    "transparent GIF": (
        encoded(Image.fromarray(PIXELS).quantize(8), "GIF", transparency=0),
        "transparent in places",
    ),
    "no pixels": (png(0, 4, 8, 2, b""), "not decodable|without pixels"),
}
