"""The preset `folder`: what it finds in a folder, and the run that it makes of it."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from configs.folder import get_config
from progdist import preflight
from progdist.config import ConfigError
from progdist.config.check import check
from progdist.data import DataError, survey
from progdist.errors import InputError
from tests.originals import image_of
from tests.pictures import CLEAR, GOOD, encoded, fill, png, resized_jpeg

pytestmark = pytest.mark.usefixtures("own_cache")


def picture(width: int, height: int, number: int = 0, channels: int = 3) -> bytes:
    pixels = image_of(number, height, width)
    return encoded(pixels if channels == 3 else pixels[..., 0].copy())


def write(root, *pictures: bytes):
    return fill(root, {f"{i:03d}.png": content for i, content in enumerate(pictures)})


# --- size and colours


@pytest.mark.parametrize(
    ("width", "height", "channels", "side"),
    [
        (8, 8, 3, 8),
        (16, 16, 3, 16),
        (28, 28, 1, 28),
        (32, 32, 3, 32),
        (64, 64, 1, 32),
        (200, 300, 3, 32),
        (300, 27, 3, 24),
        (1, 1, 1, 8),
    ],
)
def test_the_side_is_that_of_the_images_within_8_to_32(
    root, width, height, channels, side
):
    write(root, *(picture(width, height, i, channels) for i in range(2)))
    config = get_config(str(root))
    assert config.data.image_shape == (side, side, channels)
    check(config)
    preflight.check_devices(config, 16)
    assert preflight.open_source(config).image_shape == (side, side, channels)


@pytest.mark.parametrize(("num_small", "side"), [(2, 24), (3, 12)])
def test_at_most_one_image_in_ten_is_enlarged(root, num_small, side):
    sizes = [(12, 40)] * num_small + [(24, 30)] * 4 + [(90, 60)] * (23 - num_small)
    write(root, *(picture(*size) for size in sizes))
    assert get_config(str(root)).data.image_shape[0] == side


def test_one_image_in_colour_makes_the_run_one_in_colour(root):
    grey = picture(9, 9, channels=1), encoded(np.full((9, 9), 1 << 15, np.uint16))
    write(root, *grey, png(9, 9, 1, 0, (b"\0" + b"\xff\x80") * 9))
    assert get_config(str(root)).data.image_shape == (8, 8, 1)
    fill(root, {"x.jpg": encoded(image_of(0, 9, 9), "JPEG")})
    assert get_config(str(root)).data.image_shape == (8, 8, 3)


def test_transparent_images_are_put_on_white(root):
    write(root, GOOD, GOOD)
    assert get_config(str(root)).data.background == ""
    fill(root, {"x.png": encoded(CLEAR)})
    config = get_config(str(root))
    assert config.data.background == "white"
    assert len(preflight.open_source(config)) == 3


def test_only_headers_are_read_and_what_has_none_is_left_out(root):
    fill(root, {"1.jpg": resized_jpeg(5000, 4000), "2.png": GOOD[:30], "3.png": b""})
    found = survey.look(root)
    assert (found.num_images, found.sizes) == (3, [(5000, 4000)])


def test_a_large_folder_is_judged_by_some_of_its_files_from_all_over(root):
    write(root, *[picture(8, 8)] * 400, *[picture(9, 30)] * 112)
    found = survey.look(root)
    assert found.sizes == [(8, 8)] * 200 + [(9, 30)] * 56
    assert survey.describe(found, (8, 8, 3)).endswith(
        "512 images, 8x8 to 9x30 in 256 of them: trained at 8x8x3"
    )


# --- a side of one's own


@pytest.mark.parametrize(
    ("side", "patch_size", "heights", "attended"),
    [
        (8, 1, [8, 4], (8, 4)),
        (16, 1, [16, 8], (8,)),
        (20, 2, [10, 5], (5,)),
        (28, 2, [14, 7], (7,)),
        (36, 2, [18, 9], ()),
        (64, 2, [32, 16, 8], (8,)),
        (252, 2, [126, 63], ()),
        (256, 2, [128, 64, 32, 16, 8], (8,)),
    ],
)
def test_a_side_may_follow_the_path(root, side, patch_size, heights, attended):
    write(root, GOOD, GOOD)
    config = get_config(f"{root}:{side}")
    assert config.data.image_shape == (side, side, 3)
    check(config)
    assert config.net.heights(config.data.image_shape) == heights
    assert config.net.patch_size == patch_size
    assert config.net.attn_resolutions == attended


def test_a_path_may_hold_colons(tmp_path):
    for name in ("a:16", "a"):
        write(tmp_path / name, GOOD, GOOD)
    sides = {
        text: get_config(f"{tmp_path}/{text}").data.image_shape[0]
        for text in ("a:16", "a:16:20", "a:20")
    }
    assert sides == {"a:16": 8, "a:16:20": 20, "a:20": 20}


# --- classes and splits


def test_classes_are_those_of_the_directories_each_with_an_image(root):
    fill(root, {f"{name}/{i}.png": GOOD for name in ("cat", "dog") for i in range(2)})
    config = get_config(str(root))
    assert config.net.num_classes == 2
    assert preflight.open_source(config).class_names == ("cat", "dog")
    (root / "fish").mkdir()
    assert get_config(str(root)).net.num_classes == 0
    (root / "fish").rmdir()
    fill(root, {"loose.png": GOOD})
    assert get_config(str(root)).net.num_classes == 0


@pytest.mark.parametrize(
    ("classes", "count"), [((0, 1, 2), 3), ((0, 2, 2), 0), ((0, 0, 0), 0), (None, 0)]
)
def test_classes_are_those_of_dataset_json(root, classes, count):
    names = [f"00000/{i}.png" for i in range(3)]
    labels = [list(pair) for pair in zip(names, classes or (), strict=False)] or None
    fill(root, dict.fromkeys(names, GOOD))
    fill(root, {"dataset.json": json.dumps({"labels": labels}).encode()})
    config = get_config(str(root))
    assert config.net.num_classes == count
    assert len(preflight.open_source(config)) == 3


def test_the_split_for_training_is_looked_at(root):
    fill(root, {"train/a/1.png": GOOD, "train/b/2.png": GOOD})
    fill(root, {"test/a/3.png": picture(30, 30), "test/b/4.png": picture(30, 30)})
    found = survey.look(root)
    assert (found.num_images, found.num_classes, found.side) == (2, 2, 4)


# --- the plan


@pytest.mark.parametrize(
    ("num_images", "updates", "num_samples", "batch_size"),
    [
        (2, 2000, 16, 64),
        (12, 2000, 16, 64),
        (100, 2000, 100, 128),
        (1000, 3125, 1000, 256),
        (1_281_167, 4000, 2048, 256),
    ],
)
def test_few_images_make_a_short_run(
    monkeypatch, num_images, updates, num_samples, batch_size
):
    found = survey.Survey("W", num_images, 0, [(9, 9)], False, False)
    monkeypatch.setattr(survey, "look", lambda _: found)
    config = get_config("W")
    check(config)
    preflight.check_devices(config, 8)
    assert (config.base.num_updates, config.base.batch_size) == (updates, 64)
    assert config.evaluation.num_samples == num_samples
    assert config.evaluation.batch_size == batch_size


# --- the same everywhere


def test_the_result_depends_on_the_files_alone(root, tmp_path, monkeypatch):
    files = {f"{i % 2}/{i}.png": picture(20 + i, 40) for i in range(6)}
    fill(root, files)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, content in reversed(files.items()):
            archive.writestr(name, content)
    config = get_config(str(root))
    assert config.data.dir == str(root)
    monkeypatch.chdir(tmp_path)
    assert get_config(root.name) == config
    other = get_config("images.zip")
    assert other.data.dir == str(tmp_path / "images.zip")
    other.data = dataclasses.replace(other.data, dir=config.data.dir)
    assert other == config


# --- what is said


def test_one_line_says_what_was_found(root):
    for name, size in {"a/1": (200, 150), "b/2": (640, 480), "c/3": (90, 300)}.items():
        fill(root, {f"{name}.png": picture(*size)})
    line = f"{root}: 3 images of 3 classes, 90x300 to 640x480: trained at 32x32x3"
    assert survey.describe(survey.look(root), (32, 32, 3)) == line


@pytest.mark.parametrize("same", [True, False])
def test_images_of_one_size_are_said_to_be(root, same):
    write(root, picture(6, 4), picture(*((6, 4) if same else (4, 6))))
    assert (", 6x4: " in survey.describe(survey.look(root), (8, 8, 3))) == same


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, ConfigError, "--config=folder: must be folder:DIR, a directory or zip"),
        ("", ConfigError, "--config=folder: must be folder:DIR, a directory or zip"),
        ("W/none", DataError, "W/none: No such file or directory"),
        ("W/none:64", DataError, "W/none: No such file or directory"),
        ("W/none:big", DataError, "W/none:big: No such file or directory"),
        ("W:64", DataError, "W: holds no image (.png, "),
        ("W", DataError, "; ignored 1 .heic, 1 .npz, 1 .txt"),
        ("W/notes.txt", DataError, "notes.txt: neither a directory nor a zip archive"),
        ("W/a.npz", DataError, "a.npz: a file of arrays; set data.name='arrays'"),
        ("W/../one", DataError, "one: holds one image; training needs two or more"),
        ("W/../broken", DataError, "holds no readable image (1.png: not PNG, JPEG,"),
        ("W/../test", DataError, "has no split 'train'; it has test"),
        ("W/../one:4", ConfigError, "one:4: the side 4 must be a multiple of 4 from 8"),
        ("W/../one:30", ConfigError, "the side 30 must be a multiple of 4 from 8 to 2"),
        ("W/../one:260", ConfigError, "the side 260 must be a multiple of 4 from 8 to"),
        ("~no-user/x", InputError, "~no-user/x: there is no such home directory"),
    ],
)
def test_a_mistake_is_answered_in_one_line(root, tmp_path, text, error, message):
    fill(root, {"a.heic": b"", "notes.txt": b"x", "a.npz": b""})
    fill(
        tmp_path, {"one/1.png": GOOD, "broken/1.png": b"text", "test/test/1.png": GOOD}
    )
    with pytest.raises(error) as found:
        get_config(text and text.replace("W", str(root)))
    assert message.replace("W", str(root)) in str(found.value)
    assert "\n" not in str(found.value)
