"""Pictures of samples: formats, notes, names of rows, animations, bounds."""

import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from progdist import report
from tests.originals import smooth_image_of
from tests.pictures import encoded

NOTES = {"seed": "7", "model": "runs/кошка <b>\n"}
NOTED = [".png", ".jpg", ".webp", ".tif", ".avif", ".gif", ".jp2", ".j2k"]
LOSSY = {"JPEG", "AVIF"}
GIF_SECONDS, GIF_HOLD = 3.0, 1.5


def smooth(h: int, w: int, ch: int) -> np.ndarray:
    return np.ascontiguousarray(smooth_image_of(1, h, w)[..., :ch])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(path, ch: int) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L" if ch == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], ch)


def frames_of(path, ch: int) -> tuple[list[np.ndarray], list[float]]:
    """Frames of an animation and the seconds that each is shown."""
    frames, seconds = [], []
    with Image.open(path) as picture:
        assert picture.info["loop"] == 0
        for i in range(getattr(picture, "n_frames", 1)):
            picture.seek(i)
            pixels = np.asarray(picture.convert("L" if ch == 1 else "RGB"))
            frames.append(pixels.reshape(*pixels.shape[:2], ch))
            seconds.append(picture.info["duration"] / 1000)
    return frames, seconds


# Formats


def test_the_usual_formats_are_accepted():
    usual = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"}
    others = {".jp2", ".j2k", ".ppm", ".pgm", ".tga", ".qoi"}
    assert usual | others <= set(report.picture_suffixes())


@pytest.mark.parametrize("ch", [1, 3])
@pytest.mark.parametrize("suffix", report.picture_suffixes())
def test_a_picture_is_read_back(tmp_path, suffix, ch):
    image = smooth(20, 30, ch)
    path = report.save_image(tmp_path / f"a{suffix}", image, NOTES)
    with Image.open(path) as picture:
        lossy = picture.format in LOSSY
    difference = np.abs(read(path, ch).astype(int) - image)
    few_colours = suffix == ".gif" and ch == 3
    assert difference.max() <= (3 if lossy or few_colours else 0)


def test_the_suffix_tells_a_bare_codestream_from_a_file(tmp_path):
    for suffix, start in ((".j2k", b"\xff\x4f\xff\x51"), (".jp2", b"\0\0\0\x0cjP")):
        path = report.save_image(tmp_path / f"a{suffix}", smooth(8, 8, 1), {})
        assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.eps", "a.ico", "a.pbm", "a.h5", "a.wmf", "a.npz", "a", ".png"]
)
def test_other_suffixes_are_refused_in_one_line(tmp_path, name):
    with pytest.raises(report.FormatError, match=r"must end in \.png, ") as error:
        report.save_image(tmp_path / name, smooth(8, 8, 1), {})
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    path = report.save_image(tmp_path / "a.PNG", noise(8, 8, 3), NOTES)
    np.testing.assert_array_equal(read(path, 3), noise(8, 8, 3))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".gif"])
def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    report.save_image(path, noise(8, 8, 1), {})
    before = path.read_bytes()

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save_image(path, noise(9, 9, 1), {})
    with pytest.raises(OSError, match="disk full"):
        report.save_gif(path, noise(2, 1, 8, 8, 1), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Notes


@pytest.mark.parametrize("suffix", NOTED)
@pytest.mark.parametrize("ch", [1, 3])
def test_notes_are_read_back(tmp_path, suffix, ch):
    path = report.save_image(tmp_path / f"a{suffix}", smooth(8, 8, ch), NOTES)
    assert report.read_notes(path) == NOTES


@pytest.mark.parametrize("suffix", NOTED)
def test_a_path_that_is_not_text_can_be_noted(tmp_path, suffix):
    notes = {"model": "runs/\udcff"}
    path = report.save_image(tmp_path / f"a{suffix}", smooth(8, 8, 1), notes)
    assert report.read_notes(path) == {"model": r"runs/\udcff"}


def test_other_software_shows_the_notes(tmp_path):
    for suffix in (".jpg", ".webp", ".tif", ".avif"):
        path = report.save_image(tmp_path / f"a{suffix}", smooth(8, 8, 1), NOTES)
        with Image.open(path) as picture:
            exif = picture.getexif()
        assert json.loads(exif[ExifTags.Base.ImageDescription]) == NOTES
        assert exif[ExifTags.Base.Software] == "progdist"
    path = report.save_image(tmp_path / "a.png", smooth(8, 8, 1), NOTES)
    with Image.open(path) as picture:
        assert picture.info["seed"] == "7"


@pytest.mark.parametrize("suffix", [".bmp", ".tga", ".ppm"])
def test_a_format_without_room_has_no_notes(tmp_path, suffix):
    path = report.save_image(tmp_path / f"a{suffix}", smooth(8, 8, 1), NOTES)
    assert report.read_notes(path) == {}


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"comment": b"\xff\x00"}),
        ("GIF", {"comment": b"[1]"}),
        ("PNG", {}),
    ],
)
def test_pictures_of_other_software_have_no_notes(tmp_path, format, options):
    (tmp_path / "a").write_bytes(encoded(smooth(8, 8, 3), format, **options))
    assert report.read_notes(tmp_path / "a") == {}


@pytest.mark.parametrize("content", [b"", b"text", encoded(noise(8, 8, 3))[:60]])
def test_what_is_no_picture_has_no_notes_to_read(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(report.FormatError, match=r"a\.png: is not a picture"):
        report.read_notes(tmp_path / "a.png")
    with pytest.raises(report.FormatError, match=r"b\.png: No such file"):
        report.read_notes(tmp_path / "b.png")


# Names of rows


def split_rows(images: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Names of rows as drawn; checks that the images are drawn beside them."""
    labelled, grid = report.label_rows(images, names), report.image_grid(images)
    width = labelled.shape[1] - grid.shape[1]
    np.testing.assert_array_equal(labelled[:, width:], grid)
    assert (labelled[:, width - 5 : width] == 255).all()
    step = (len(labelled) + 2) // len(names)
    return [labelled[i * step : (i + 1) * step - 2, :width] for i in range(len(names))]


@pytest.mark.parametrize("ch", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 64, 256])
def test_each_row_has_its_name_at_its_left(side, ch):
    names = ["cat", "dog", "", "cat"]
    cat, dog, empty, again = split_rows(noise(4, 2, side, side, ch), names)
    np.testing.assert_array_equal(cat, again)
    assert (cat != dog).any()
    assert (empty == 255).all()
    ink = np.flatnonzero((cat < 128).any(axis=(1, 2)))
    assert ink[-1] - ink[0] >= min(len(cat) / 6, 20)  # legible
    assert abs(ink.mean() - len(cat) / 2) < 2


@pytest.mark.parametrize(
    "name",
    [
        "кошка",
        "猫",
        "عربي",
        "<b>&amp;</b>",
        "\u202eabc",
        "a\nb\tc",
        "\udcff!",
        "e\u0301",
    ],
)
def test_any_name_is_drawn(name):
    (drawn,) = split_rows(noise(1, 1, 8, 8, 3), [name])
    assert (drawn == 0).any()


@pytest.mark.parametrize(
    "name", ["W" * 40, "i" * 99, "i" * 10**6, "e" + "\u0301" * 999]
)
def test_a_long_name_is_cut(name):
    one, other = split_rows(noise(2, 1, 8, 8, 1), [name, name + "x"])
    assert one.shape[1] < 320
    np.testing.assert_array_equal(one, other)


def test_names_of_flat_images_do_not_touch():
    images = np.zeros((2, 1, 4, 256, 1), np.uint8)
    labelled = report.label_rows(images, ["gjpq", "ÄÖÅ"])
    width = labelled.shape[1] - 256
    inked = (labelled[:, :width] < 255).any(axis=(1, 2))
    assert np.count_nonzero(np.diff(inked.astype(int)) == 1) >= 2
    assert not inked[len(inked) // 2]


# Animations


def test_a_grey_animation_is_exact(tmp_path):
    frames = noise(5, 6, 8, 8, 1)
    path = report.save_gif(tmp_path / "a.gif", frames, NOTES)
    shown, seconds = frames_of(path, 1)
    for frame, expected in zip(shown, frames, strict=True):
        np.testing.assert_array_equal(frame, report.square_grid(expected))
    assert report.read_notes(path) == NOTES
    assert max(seconds) == seconds[-1] == GIF_HOLD


@pytest.mark.parametrize("t", [1, 2, 5, 60, 61, 1025])
def test_an_animation_lasts_three_seconds(tmp_path, t):
    frames = noise(t, 1, 8, 8, 1)
    shown, seconds = frames_of(report.save_gif(tmp_path / "a.gif", frames, {}), 1)
    assert len(shown) == min(t, 60)
    assert sum(seconds) == pytest.approx(GIF_SECONDS if t > 1 else GIF_HOLD)
    assert min(seconds) >= 0.02  # browsers slow down what is faster
    np.testing.assert_array_equal(shown[0], report.square_grid(frames[0]))
    np.testing.assert_array_equal(shown[-1], report.square_grid(frames[-1]))


def test_frames_that_stand_still_keep_the_time(tmp_path):
    frames = np.zeros((6, 2, 8, 8, 3), np.uint8)
    _, seconds = frames_of(report.save_gif(tmp_path / "a.gif", frames, {}), 3)
    assert sum(seconds) == pytest.approx(GIF_SECONDS)


def test_colours_stay_close_and_the_gaps_white(tmp_path):
    images = np.stack([smooth_image_of(i, 32, 32) for i in range(3)])
    frames = np.stack([noise(3, 32, 32, 3), images])
    shown, _ = frames_of(report.save_gif(tmp_path / "a.gif", frames, {}), 3)
    expected = report.square_grid(images)
    difference = np.abs(shown[-1].astype(int) - expected)
    assert difference.mean() < 2
    for frame in shown:
        gaps = report.square_grid(np.zeros_like(images)) == 255
        assert (frame[gaps] == 255).all()


def test_an_animation_of_large_images_has_fewer_frames(tmp_path):
    frames = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1, 1)
    frames = frames.repeat(1024, axis=2).repeat(1024, axis=3)
    shown, seconds = frames_of(report.save_gif(tmp_path / "a.gif", frames, {}), 1)
    assert [frame[0, 0, 0] for frame in (shown[0], shown[-1])] == [0, 59]
    assert len(shown) == 8
    assert sum(seconds) == pytest.approx(GIF_SECONDS)


# Bounds


@pytest.mark.parametrize(
    ("suffix", "grid", "moving"),
    [
        (".png", (32, 32, 8, 8), False),
        (".png", (8, 8, 1024, 1024), False),
        (".gif", (8, 8, 256, 256), True),
        (".webp", (1, 313, 8, 8), False),
        (".WEBP", (327, 1, 8, 8), False),
        (".jpg", (1000, 1, 8, 8), False),
    ],
)
def test_a_grid_fits_up_to_its_bounds(suffix, grid, moving):
    rows, columns, h, w = grid
    assert report.fits_picture(suffix, rows, columns, h, w, moving)
    more = (rows + 1, columns) if rows > columns else (rows, columns + 1)
    if suffix == ".jpg":
        more = 1000, 2
    assert not report.fits_picture(suffix, *more, h, w, moving)


@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".gif", ".avif", ".png"])
def test_what_fits_can_be_written(tmp_path, suffix):
    columns = max(c for c in range(1025) if report.fits_picture(suffix, 1, c, 8, 8))
    picture = report.label_rows(np.zeros((1, columns, 8, 8, 1), np.uint8), ["W" * 99])
    path = report.save_image(tmp_path / f"a{suffix}", picture, {})
    with Image.open(path) as image:
        assert image.size == picture.shape[1::-1]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 1024])
def test_a_square_grid_is_filled_up_to_its_last_row(n):
    rows, columns = report.square_sides(n)
    assert (rows - 1) * columns < n <= rows * columns
    assert columns == np.ceil(np.sqrt(n))
