"""A folder of images: what counts, what is refused by name, which example is which."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdist import preflight
from progdist.config import Config, ConfigError, Data, check
from progdist.data import ArraySource, DataError, batches, images, sources
from progdist.data.listing import list_images, printable
from progdist.nets.settings import UNetConfig
from tests.originals import image_of
from tests.pictures import BAD, CLEAR, GOOD, PIXELS, SHAPE, encoded, fill, open_folder

pytestmark = pytest.mark.usefixtures("own_cache")


# --- what is refused


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason(kind, root):
    content, reason = BAD[kind]
    fill(root, {"good.png": GOOD, f"{kind}.png": content})
    with pytest.raises(DataError, match=f"  {kind}.png: .*({reason})") as error:
        open_folder(root)
    first, *rest = str(error.value).splitlines()
    assert first.startswith(f"{root}: 1 of 2 images cannot be used")
    assert len(rest) == 1


def test_only_the_first_of_many_bad_files_are_named(root):
    fill(root, {f"{i:03d}.png": b"" for i in range(120)})
    with pytest.raises(DataError, match="120 of 120 images") as error:
        open_folder(root, skip_bad=0.99)
    lines = str(error.value).splitlines()
    assert lines[1:21] == [f"  {i:03d}.png: empty" for i in range(20)]
    assert lines[21:] == ["  and 100 more"]


def test_a_share_may_be_left_out_and_is_named(root, capsys):
    files = {f"{i}.png": encoded(image_of(i, 4, 6)) for i in range(9)}
    fill(root, files | {"bad.png": b""})
    with pytest.raises(DataError, match=r"1 of 10 .*skip_bad=0\.09"):
        open_folder(root, skip_bad=0.09)
    source = open_folder(root, skip_bad=0.1)
    assert "1 of 10 images cannot be used and are left out\n  bad.png: empty" in (
        capsys.readouterr().err
    )
    assert len(source) == 9
    found = {image.tobytes() for image in source.take(np.arange(9)).image}
    assert found == {image_of(i, 4, 6).tobytes() for i in range(9)}


def test_without_any_image_it_says_what_would_be_one(root):
    for name in ("notes.txt", ".hidden.png", ".git/a.png"):
        fill(root, {name: GOOD})
    with pytest.raises(DataError, match=r"no image \(.png, .*\); ignored 1 .txt$"):
        open_folder(root)
    with pytest.raises(DataError, match=r"nowhere: No such file or directory"):
        open_folder(root / "nowhere")
    with pytest.raises(DataError, match=r"notes\.txt: neither a directory nor"):
        open_folder(root / "notes.txt")


def test_what_is_no_file_is_named_and_does_not_hang(root):
    fill(root, {"good.png": GOOD})
    os.mkfifo(root / "pipe.png")
    (root / "nowhere.png").symlink_to(root / "gone.png")
    (root / "itself.png").symlink_to(root / "itself.png")
    with pytest.raises(DataError, match="3 of 4 images") as error:
        open_folder(root)
    assert str(error.value).splitlines()[1:] == [
        "  itself.png: Too many levels of symbolic links",
        "  nowhere.png: No such file or directory",
        "  pipe.png: not a regular file",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(root):
    fill(root, {"good.png": GOOD, "closed.png": GOOD, "below/good.png": GOOD})
    (root / "closed.png").chmod(0)
    with pytest.raises(DataError, match=r"  closed\.png: Permission denied"):
        open_folder(root)
    (root / "below").chmod(0)
    with pytest.raises(DataError, match="images/below/: Permission denied"):
        open_folder(root)
    (root / "below").chmod(0o700)


def test_a_file_that_is_too_large_is_not_read(root, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", len(GOOD))
    fill(root, {"good.png": GOOD, "large.png": GOOD + b"\0"})
    with pytest.raises(DataError, match=r"1 of 2 .*\n  large\.png: above"):
        open_folder(root)


# --- names

NAMES = ["γάτα.png", "قطة.png", "🐈.png", "a b\tc.png", "two\nlines.png", "‮gnp.png"]


def test_a_file_may_have_any_name(root):
    names = [*map(os.fsencode, NAMES), b"\xff\xfe.png"]
    for number, name in enumerate(names):
        content = encoded(image_of(number, 4, 6))
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(content)
    source = open_folder(root)
    found = {image.tobytes() for image in source.take(np.arange(7)).image}
    assert found == {image_of(i, 4, 6).tobytes() for i in range(7)}


def test_a_name_is_one_printable_line(root):
    names = [*map(os.fsencode, NAMES), b"\xff\xfe.png"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(b"")
    with pytest.raises(DataError, match="7 of 7") as error:
        open_folder(root)
    message = str(error.value)
    assert message.count("\n") == 7
    assert message.replace("\n", "").isprintable()
    for shown in ("γάτα.png", "قطة.png", "🐈.png", "two\\nlines", "\\udcff\\udcfe.png"):
        assert f"  {shown}" in message
    message.encode("utf-8")  # no lone surrogate is left


@pytest.mark.parametrize("name", ["a.PNG", "a.Jpg", "a.JPEG", "a.webp", "d.png/a.jpg"])
def test_what_counts_as_an_image(root, name):
    fill(root, {name: GOOD, "a.heic": GOOD, "png": GOOD, "b.png.txt": GOOD})
    assert list(list_images(root).names) == [name.encode()]


def test_other_files_are_counted_in_one_line(root, capsys):
    names = [
        "1.TXT",
        "b/2.txt",
        "c/3.txt",
        "4.psd",
        "b/Makefile",
        "\n.x\n",
        ".hidden.y",
    ]
    names += ["b/dataset.json", "b/request.json", "Thumbs.db", ".git/a.txt"]
    fill(root, dict.fromkeys(names, b"") | {"c/1.png": GOOD})
    open_folder(root)
    open_folder(root)
    expected = f"{root}: ignored 3 .txt, 1 no suffix, 1 .psd, 1 .x\\n\n"
    assert capsys.readouterr().err == expected
    fill(root, {f"{i}.{i}": b"" for i in range(12)})
    open_folder(root)
    assert "ignored 3 .txt, 1 no suffix, 1 .0, 1 .1, 1 .10, 11 others\n" in (
        capsys.readouterr().err
    )


def test_a_background_and_a_least_size_decide_what_is_good(root):
    fill(root, {"clear.png": encoded(CLEAR), "good.png": GOOD})
    fill(root, {"small.png": encoded(image_of(1, 3, 9))})
    assert len(open_folder(root, background="red", min_size=3)) == 3
    with pytest.raises(DataError, match=r"1 of 3 .*\n  clear.png: transparent in"):
        open_folder(root)  # the others are known to be good, that one is not
    with pytest.raises(DataError, match=r"1 of 3 .*\n  small.png: 9x3 pixels, below"):
        open_folder(root, background="red", min_size=4)
    red, blue = (open_folder(root, background=c) for c in ("red", "blue"))
    assert red.fingerprint != blue.fingerprint
    assert not np.array_equal(
        red.take(np.arange(3)).image, blue.take(np.arange(3)).image
    )


@pytest.mark.parametrize(("highest", "warns"), [(1023, True), (16384, False)])
def test_images_of_fewer_bits_in_sixteen_are_warned_of_once(
    root, highest, warns, capsys
):
    for i in range(3):
        levels = np.full((4, 6), highest - i, np.uint16)
        fill(root, {f"{i}.png": encoded(levels), "8 bits.png": GOOD})
    open_folder(root)
    line = f"{root}: 16-bit images: highest value found 1023; scale the values to 0..65"
    assert (line in capsys.readouterr().err) == warns


@pytest.mark.parametrize("colour", ["blood", "#12345", "#12345678", "rgb(1,2,3)", "#"])
def test_a_background_is_a_colour(colour):
    for good in ("", "White", "#00fFa0"):
        check.check(Config(data=Data(background=good)))
    with pytest.raises(ConfigError, match="must be a colour name or #rrggbb, or empty"):
        check.check(Config(data=Data(background=colour)))
    with pytest.raises(ConfigError, match="min_size=-1: must be at least 0"):
        check.check(Config(data=Data(min_size=-1)))


def test_printable_keeps_letters_and_escapes_the_rest():
    assert printable("Ω·ع·漢·🐈".encode()) == "Ω·ع·漢·🐈"
    assert printable(b"a\n\x1b[31m\xff") == "a\\n\\x1b[31m\\udcff"


# --- links


def test_loops_of_links_end_and_no_image_counts_twice(root, tmp_path):
    fill(root, {"b/real/1.png": GOOD, "b/2.png": GOOD})
    fill(tmp_path / "elsewhere", {"3.png": GOOD})
    (root / "a").symlink_to(root / "b/real")  # the directory itself counts
    (root / "b/loop").symlink_to(root)
    (root / "b/real/up").symlink_to("..")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "d").symlink_to(tmp_path / "elsewhere")
    (root / "e.png").symlink_to(tmp_path / "elsewhere/3.png")
    names = [b"b/2.png", b"b/real/1.png", b"c/3.png", b"e.png"]
    assert list(list_images(root).names) == names


# --- classes and splits


def test_directories_are_classes_if_each_image_is_in_one(root):
    for number, name in enumerate(["ζ", "b-a", "b"]):
        for i in range(4):
            fill(root, {f"{name}/{i}.png": encoded(image_of(number, 4, 6))})
    source = open_folder(root)
    image, label = source.take(np.arange(12))
    assert (source.num_classes, np.bincount(label).tolist()) == (3, [4, 4, 4])
    for number, rank in enumerate([2, 1, 0]):  # b, b-a, ζ
        for pixels in image[label == rank]:
            np.testing.assert_array_equal(pixels, image_of(number, 4, 6))
    assert np.count_nonzero(np.diff(label)) > 2  # they are mixed
    # A class keeps its number where another has no good image.
    fill(root, {f"b/{i}.png": b"" for i in range(4)})
    source = open_folder(root, skip_bad=0.4)
    assert (len(source), source.num_classes) == (8, 3)
    assert sorted(source.take(np.arange(8)).label) == [1] * 4 + [2] * 4
    fill(root, {"loose.png": GOOD})
    assert open_folder(root, skip_bad=0.4).num_classes == 0


@pytest.mark.parametrize(
    ("num_classes", "says"), [(1, "must be 0 or 2, "), (3, "must be 0 or 2, "), (2, 0)]
)
def test_the_network_needs_as_many_classes(root, num_classes, says):
    fill(root, {"a/1.png": GOOD, "b/1.png": GOOD})
    data = Data(name="folder", dir=str(root), image_shape=SHAPE)
    config = Config(data=data, net=UNetConfig(num_classes=num_classes))
    if says:
        with pytest.raises(ConfigError, match=says):
            preflight.open_source(config)
    else:
        assert preflight.open_source(config).num_classes == 2
    fill(root, {"loose.png": GOOD})
    with pytest.raises(DataError, match=r"no labels: loose\.png is not in a directory"):
        preflight.open_source(config)


# --- as a source


@pytest.mark.parametrize("fits", [True, False])
def test_small_folders_are_held_in_memory(root, fits, monkeypatch):
    fill(root, {f"{i}.png": encoded(image_of(i, 4, 6)) for i in range(7)})
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 7 * 72 - (not fits))
    source = open_folder(root)
    assert isinstance(source, ArraySource) == fits
    assert (len(source), source.name, source.image_shape) == (7, "folder", SHAPE)
    found = {image.tobytes() for image in source.take(np.arange(7)).image}
    assert found == {image_of(i, 4, 6).tobytes() for i in range(7)}


def test_examples_depend_on_the_names_alone(root, tmp_path, monkeypatch):
    files = {f"{i % 3}/{i}.png": encoded(image_of(i, 4, 6)) for i in range(12)}
    fill(root, files)
    other = fill(tmp_path / "copy", dict(reversed(files.items())))
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    a, b = open_folder(root), open_folder(other)
    for x, y in zip(a.take(np.arange(12)), b.take(np.arange(12)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.fingerprint == b.fingerprint != ""
    (root / "2/2.png").rename(root / "2/x.png")
    assert open_folder(root).fingerprint != a.fingerprint
    fill(other, {"2/2.png": GOOD + b"\0"})
    assert open_folder(other).fingerprint != a.fingerprint


def test_the_images_of_a_folder_stand_upright(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    fill(root, {"1.png": encoded(PIXELS[::-1, ::-1].copy(), exif=exif)})
    image, _ = open_folder(root).take(np.array([0]))
    np.testing.assert_array_equal(image[0], PIXELS)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_goes_bad_later_is_named(root, change, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    fill(root, {f"{i}.png": GOOD for i in range(5)})
    source = open_folder(root)
    change(root / "3.png")
    with pytest.raises(DataError, match=rf"{root}/3\.png: (No such file|empty)"):
        list(batches(source, 0, 0, 5, 2, False))
