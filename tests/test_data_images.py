"""From the bytes of an image file to pixels."""

import io
import struct
import threading

import numpy as np
import pytest
from PIL import Image, ImageCms

from progdist.data import images
from tests.originals import image_of, smooth_image_of
from tests.pictures import GOOD, PIXELS, SHAPE, encoded, png
from tests.profiles import cyan_is_black, linear_profile


def pixels_of(content: bytes, shape=SHAPE, background="") -> np.ndarray:
    return images.decode(content, shape, "triangle", True, background)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_a_format_without_loss_keeps_every_pixel(format, options):
    content = encoded(PIXELS, format, **options)
    np.testing.assert_array_equal(pixels_of(content), PIXELS)


def test_a_format_with_loss_keeps_the_picture():
    scene = smooth_image_of(1, 40, 60)
    for format in ("JPEG", "AVIF"):
        pixels = pixels_of(encoded(scene, format, quality=95), scene.shape)
        assert abs(pixels.astype(int) - scene).max() <= 6


@pytest.mark.parametrize("kind", ["P1", "P2", "P3", "P4", "P5", "P6"])
def test_a_bitmap_greymap_or_pixmap_is_scaled_by_its_highest_value(kind):
    """From the specifications of Netpbm: of two pixels one is full, the other zero."""
    content = {
        "P1": b"P1 2 1\n0 1",
        "P2": b"P2 2 1 1023\n1023 0",
        "P3": b"P3 # colour\n2 1 1023\n1023 1023 1023 0 0 0\n",
        "P4": b"P4 2 1\n\x40",
        "P5": b"P5 2 1 1023\n\x03\xff\0\0",
        "P6": b"P6 2 1 1023\n" + b"\x03\xff" * 3 + b"\0" * 6,
    }[kind]
    assert pixels_of(content, (1, 2, 1)).ravel().tolist() == [255, 0]


def test_sixteen_bits_become_eight_by_their_high_byte():
    levels = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    expected = np.array([[0, 0, 1], [128, 254, 255]])
    grey = pixels_of(encoded(levels), (2, 3, 1))
    np.testing.assert_array_equal(grey[..., 0], expected)
    colour = np.stack([levels, levels[::-1], levels[:, ::-1]], -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    np.testing.assert_array_equal(
        pixels_of(png(3, 2, 16, 2, rows), (2, 3, 3)),
        np.stack([expected, expected[::-1], expected[:, ::-1]], -1),
    )


def packed(depth: int, values: list[int]) -> bytes:
    """A row of a PNG: no filter, then the values, the first in the highest bits."""
    bits = "".join(f"{value:0{depth}b}" for value in values)
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def keyed_png(colour: int, depth: int, hits: bool) -> tuple[bytes, list[int]]:
    """A PNG of two pixels, of which the first is transparent or almost so.

    Returns the file and the bytes of its second pixel (W3C PNG specification, 5.6, 6.1,
    11.3.2.1). A key that differs in the last bit of a channel does not hit.
    """
    full = 2**depth - 1
    match colour:
        case 0:
            key, last = struct.pack(">H", full - (not hits)), 0 if hits else full
            row = packed(depth, [full, last])
            return png(2, 1, depth, 0, row, key), [0 if hits else 255] * 3
        case 2:
            key = struct.pack(">HHH", 1, full, 2 + (not hits))
            row = packed(depth, [1, full, 2, full, 0, full])
            return png(2, 1, depth, 2, row, key), [255, 0, 255]
        case 3:
            palette = bytes([9, 8, 7, 6, 5, 4])
            row, key = packed(depth, [0, 1]), bytes([255 * (not hits)])
            return png(2, 1, depth, 3, row, key, palette), [6, 5, 4]
    values = [full] if colour == 4 else [full, 0, full]
    clear, zero = [*values, full * (not hits)], [0] * (len(values) - 1)
    row = packed(depth, [*clear, full, *zero, full])
    return png(2, 1, depth, colour, row), [255] * 3 if colour == 4 else [255, 0, 0]


KEYED = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
KEYED += [(3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]


@pytest.mark.parametrize(("colour", "depth"), KEYED)
def test_a_transparent_pixel_of_any_png_is_refused_or_takes_the_background(
    colour, depth
):
    content, second = keyed_png(colour, depth, hits=True)
    for check in (images.verify, pixels_of):
        with pytest.raises(images.ImageError, match="transparent in places"):
            check(content)
    filled = pixels_of(content, (1, 2, 3), "#102030").tolist()
    assert filled == [[[0x10, 0x20, 0x30], second]]
    assert pixels_of(content, (1, 2, 1), "white")[0, 0] == 255
    opaque, second = keyed_png(colour, depth, hits=False)
    assert pixels_of(opaque, (1, 2, 3))[0, 1].tolist() == second
    assert not images.verify(opaque) or depth == 16


def test_a_pixel_half_transparent_is_half_background():
    half = np.full((1, 1, 4), [200, 100, 0, 51], np.uint8)  # a fifth
    for format in ("PNG", "TIFF"):
        mixed = pixels_of(encoded(half, format), (1, 1, 3), "blue")
        assert mixed.ravel().tolist() == [40, 20, 204]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_an_opaque_alpha_channel_is_dropped(format):
    opaque = np.dstack([PIXELS, np.full((4, 6), 255, np.uint8)])
    content = encoded(opaque, format, lossless=True)
    np.testing.assert_array_equal(pixels_of(content), PIXELS)


def test_a_palette_becomes_its_colours():
    palette = Image.fromarray(PIXELS).quantize(24)
    np.testing.assert_array_equal(pixels_of(encoded(palette)), palette.convert("RGB"))
    # An entry that is transparent, but that no pixel has.
    unused = palette.copy()
    unused.putpalette([*palette.getpalette()[: 3 * 24], 1, 2, 3])
    content = encoded(unused, transparency=24)
    np.testing.assert_array_equal(pixels_of(content), palette.convert("RGB"))


def test_one_bit_and_grey_become_colour_and_colour_grey():
    bits = np.array([[True, False, True]])
    black = pixels_of(encoded(bits), (1, 3, 3))
    assert black[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    np.testing.assert_array_equal(pixels_of(encoded(grey)), np.dstack([grey] * 3))
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B.
    luma = PIXELS.astype(float) @ [0.299, 0.587, 0.114]
    assert abs(pixels_of(GOOD, (4, 6, 1))[..., 0] - luma).max() <= 0.51


def test_cmyk_is_subtracted_from_white():
    cmyk = np.full((16, 16, 4), [255, 0, 128, 0], np.uint8)
    image = Image.fromarray(cmyk, "CMYK")
    content = encoded(image, "JPEG", quality=100)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    np.testing.assert_allclose(
        pixels_of(content, (16, 16, 3)), np.full((16, 16, 3), [0, 255, 127]), atol=3
    )


def encoded_srgb(linear):
    """The sRGB transfer function (IEC 61966-2-1), on 0..255."""
    x = np.asarray(linear) / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_linear_light_becomes_srgb(format):
    pixels = np.full((16, 16, 3), [20, 90, 180], np.uint8)
    options = {"quality": 100, "lossless": True, "subsampling": 0}
    content = encoded(pixels, format, icc_profile=linear_profile("RGB "), **options)
    expected = np.broadcast_to(encoded_srgb([20, 90, 180]), pixels.shape)
    np.testing.assert_allclose(pixels_of(content, pixels.shape), expected, atol=3)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = encoded(grey, "PNG", icc_profile=linear_profile("GRAY"))
    drawn = pixels_of(content, (16, 16, 1))[..., 0]
    np.testing.assert_allclose(drawn, encoded_srgb(grey), atol=2)


def test_the_colours_of_a_palette_and_behind_transparency_become_srgb():
    profile = linear_profile("RGB ")
    pixels = np.full((2, 2, 4), [20, 90, 180, 0], np.uint8)
    pixels[0, :, 3] = 255
    content = encoded(pixels, icc_profile=profile)
    drawn = pixels_of(content, (2, 2, 3), "#010203")
    np.testing.assert_allclose(drawn[0, 0], encoded_srgb([20, 90, 180]), atol=1)
    assert drawn[1, 0].tolist() == [1, 2, 3]
    palette = Image.fromarray(pixels[..., :3]).quantize(2)
    drawn = pixels_of(encoded(palette, icc_profile=profile), (2, 2, 3))
    np.testing.assert_allclose(drawn[0, 0], encoded_srgb([20, 90, 180]), atol=1)


def test_inks_are_what_their_profile_says():
    """A profile by which cyan is black, and the other inks leave the paper white."""
    inks = Image.fromarray(np.full((16, 16, 4), [255, 0, 0, 0], np.uint8), "CMYK")
    content = encoded(inks, "JPEG", quality=100, icc_profile=cyan_is_black())
    assert pixels_of(content, (16, 16, 3)).max() <= 2
    inks = Image.fromarray(np.full((16, 16, 4), [0, 255, 255, 255], np.uint8), "CMYK")
    content = encoded(inks, "TIFF", icc_profile=cyan_is_black())
    assert pixels_of(content, (16, 16, 3)).min() >= 253


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense",
        linear_profile("RGB ")[:200],
        linear_profile("GRAY"),
        cyan_is_black(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["nonsense", "cut short", "of greys", "of inks", "sRGB"],
)
def test_a_profile_that_says_nothing_leaves_every_pixel(profile):
    for format in ("PNG", "TIFF"):
        content = encoded(PIXELS, format, icc_profile=profile)
        np.testing.assert_array_equal(pixels_of(content), PIXELS)


def test_the_highest_of_16_bits_is_reported():
    grey = np.full((4, 6), 1023, np.uint16)
    assert images.verify(encoded(grey)) == 1023
    assert images.verify(encoded(grey, "TIFF", compression="tiff_lzw")) == 1023
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for row in np.dstack([grey] * 3)
    )
    assert images.verify(png(6, 4, 16, 2, rows)) == 1023
    assert images.verify(GOOD) == 0
    assert images.verify(b"P5 2 1 1023\n\0\1\0\2") == 0  # scaled by its header


def test_an_image_below_the_least_size_is_refused_whichever_side_it_is():
    for size in ("6x4", "4x6"):
        width, height = map(int, size.split("x"))
        content = encoded(image_of(1, height, width))
        images.verify(content, images.Rules(min_size=4))
        with pytest.raises(images.ImageError, match=rf"{size}.*data\.min_size=5"):
            images.verify(content, images.Rules(min_size=5))


# The sides of the scene that the first row and the first column of the file show; from
# the Exif standard (CIPA DC-008), tag Orientation.
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_upright(orientation, format):
    scene = smooth_image_of(1, 40, 60)
    first = ORIENTATIONS[orientation]
    stored = scene[:, ::-1] if "right" in first else scene
    stored = stored[::-1] if "bottom" in first else stored
    stored = stored.swapaxes(0, 1) if first[0] in ("left", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "lossless": True, "quality": 100, "subsampling": "4:4:4"}
    content = encoded(np.ascontiguousarray(stored), format, **options)
    error = pixels_of(content, (40, 60, 3)).astype(int) - scene
    assert abs(error).max() <= (4 if format in ("JPEG", "AVIF") else 0)
    # The same where it is cropped on the way.
    small = pixels_of(content, (20, 20, 3)).astype(float).mean((0, 1))
    np.testing.assert_allclose(small, scene[:, 10:50].mean((0, 1)), atol=1.5)


@pytest.mark.filterwarnings(r"ignore:::PIL\.")
@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_unreadable_exif_says_nothing(exif, format):
    content = encoded(smooth_image_of(1, 8, 8), format, exif=exif)
    assert pixels_of(content, (8, 8, 3)).shape == (8, 8, 3)


def test_of_two_pictures_in_one_jpeg_the_first_counts():
    wide = [Image.fromarray(smooth_image_of(i, 16, 16)) for i in (0, 5)]
    content = encoded(wide[0], "MPO", save_all=True, append_images=wide[1:])
    pixels = pixels_of(content, (16, 16, 3)).astype(int)
    assert abs(pixels - smooth_image_of(0, 16, 16)).max() < 12


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1), (3000, 2000)])
@pytest.mark.parametrize("shape", [(4, 6, 3), (1, 64, 1), (64, 1, 3)])
def test_any_size_fits_any_shape(size, shape):
    content = encoded(Image.new("RGB", size, (200, 100, 50)))
    expected = [124] if shape[2] == 1 else [200, 100, 50]
    assert (pixels_of(content, shape) == expected).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_shrinking_a_jpeg_as_it_is_decoded_changes_next_to_nothing(
    options, monkeypatch
):
    wide = Image.fromarray(smooth_image_of(1, 503, 811))
    stripes = wide.point([(i * 7) % 256 for i in range(256)] * 3)
    content = encoded(stripes, "JPEG", quality=95, **options)
    shrunk = pixels_of(content, (16, 16, 3)).astype(int)
    monkeypatch.setattr(images, "DRAFT_RATIO", 1000)
    whole = pixels_of(content, (16, 16, 3)).astype(int)
    assert 0 < abs(shrunk - whole).max() <= 3
    assert abs(shrunk - whole).mean() < 0.5


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_large_images_are_decoded_one_at_a_time(format, monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 23)
    opened, open_image = [], images.open_image
    monkeypatch.setattr(
        images, "open_image", lambda content: opened.append(1) or open_image(content)
    )
    thread = threading.Thread(target=pixels_of, args=(encoded(PIXELS, format),))
    with images.one_large:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not (opened and format == "WEBP")  # opening one takes the memory
    thread.join(60)
    assert not thread.is_alive()


def test_a_crop_is_centred_and_keeps_the_ratio_of_sides():
    tall, wide = np.zeros((2, 48, 16), np.uint8), np.zeros((16, 48), np.uint8)
    tall, wide[:, 16:32] = tall[0], 255
    tall[16:32] = 255
    for pixels in (tall, wide):
        image = Image.fromarray(pixels)
        square = images.crop_and_resize(image, 8, 8, "area")
        assert (square == 255).all()


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize(
    ("size", "shape"),
    [((33, 50), (6, 7)), ((64, 32), (8, 8)), ((5, 4), (13, 9)), ((9, 9), (9, 9))],
)
def test_resizing_by_area_is_the_mean_over_the_area(size, shape, channels):
    """Each pixel is divided into as many parts as there are areas, which is exact."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, *channels), np.uint8)
    parts = pixels.astype(int).repeat(shape[0], 0).repeat(shape[1], 1)
    blocks = parts.reshape(shape[0], size[0], shape[1], size[1], *channels)
    expected = np.floor(blocks.mean((1, 3)) + 0.5)
    small = images.area_means(pixels, *shape)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, expected)


def test_a_jpeg_is_not_shrunk_by_its_decoder_before_areas_are_averaged():
    jpeg = encoded(smooth_image_of(0, 200, 300), "JPEG", quality=100)
    small = images.decode(jpeg, (12, 12, 3), "area", True)
    with Image.open(io.BytesIO(jpeg)) as full:
        crop = np.asarray(full)[:, 50:250]
    np.testing.assert_array_equal(small, images.area_means(crop, 12, 12))
