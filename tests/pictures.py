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
    width: int, height: int, depth: int, colour: int, rows: bytes, key: bytes = b""
) -> bytes:
    """A PNG made by hand (W3C PNG specification): header, key colour, pixels, end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def webp(kind: bytes, content: bytes) -> bytes:
    """A WebP file of one chunk (RFC 9649)."""
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


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
FLIPPED = bytearray(GOOD)
FLIPPED[len(GOOD) // 2] ^= 4

BAD = {
    "empty": (b"", "empty"),
    "text": (b"It was a bright cold day in April\n", "not PNG, JPEG or WebP"),
    "gif": (encoded(PIXELS, "GIF"), "not PNG, JPEG or WebP"),
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
    "16-bit key": (
        encoded(np.arange(24, dtype=np.uint16).reshape(4, 6), transparency=7),
        "transparent in places",
    ),
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
    "no pixels": (png(0, 4, 8, 2, b""), "not decodable|without pixels"),
}
