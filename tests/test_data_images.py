"""From the bytes of an image file to pixels."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from progdist.data import images
from tests.originals import smooth_image_of
from tests.pictures import GOOD, PIXELS, SHAPE, encoded, png


def pixels_of(content: bytes, shape=SHAPE) -> np.ndarray:
    return images.decode(content, shape, Image.Resampling.BILINEAR, upright=True)


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


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
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


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_upright(orientation, format):
    scene = smooth_image_of(1, 40, 60)
    first = ORIENTATIONS[orientation]
    stored = scene[:, ::-1] if "right" in first else scene
    stored = stored[::-1] if "bottom" in first else stored
    stored = stored.swapaxes(0, 1) if first[0] in ("left", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "lossless": True, "quality": 100, "subsampling": 0}
    content = encoded(np.ascontiguousarray(stored), format, **options)
    error = pixels_of(content, (40, 60, 3)).astype(int) - scene
    assert abs(error).max() <= (4 if format == "JPEG" else 0)
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
        square = images.crop_and_resize(image, 8, 8, Image.Resampling.BOX)
        assert (np.asarray(square) == 255).all()


def test_resizing_by_area_averages():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    small = images.crop_and_resize(Image.fromarray(pixels), 4, 4, Image.Resampling.BOX)
    blocks = pixels.reshape(4, 2, 4, 2).mean((1, 3))
    assert abs(np.asarray(small) - blocks).max() <= 0.5
