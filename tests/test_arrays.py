"""Files of arrays, also hostile ones."""

import os
import zipfile

import numpy as np
import pytest

from progdist.workdir.arrays import MAX_BYTES, read_arrays, read_images, write_images
from progdist.workdir.files import FormatError

IMAGES = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def test_written_images_are_those_that_evaluators_read(tmp_path):
    path = write_images(tmp_path / "a.npz", IMAGES, np.array([3, 1]), num_steps=4)
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        assert arrays["labels"].tolist() == [3, 1]
        assert arrays["num_steps"] == 4
    images, labels = read_images(path)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels is not None
    assert labels.tolist() == [3, 1]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", ["images", "arr_0"])
def test_images_are_read_under_both_names_in_any_order(tmp_path, name, order):
    np.savez_compressed(tmp_path / "a.npz", **{name: np.asarray(IMAGES, order=order)})
    images, labels = read_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(images, IMAGES)
    assert labels is None


def test_an_npy_file_holds_images(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npy")[0], IMAGES)


def test_grey_images_may_lack_their_last_axis(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES[:, :, :, 0])
    np.testing.assert_array_equal(read_images(tmp_path / "a.npy")[0], IMAGES[..., :1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pixels": IMAGES}, "lacks images"),
        ({"images": IMAGES / 255}, "images is float64 .2, 3, 4, 3., not uint8"),
        ({"images": IMAGES[..., :2]}, "images is uint8"),
        ({"images": IMAGES, "labels": np.zeros(3, int)}, "labels are .3., images .2, "),
        ({"images": np.array([{}])}, "images is an array of Python objects"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FormatError, match=rf"a\.npz: .*{said}"):
        read_images(tmp_path / "a.npz")


def test_a_header_that_announces_more_than_the_file_holds_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(8, np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    bomb = content.replace(b"(8,), }" + b" " * 12, b"(8000000000000,), }")
    assert len(bomb) == len(content) != content
    (tmp_path / "a.npy").write_bytes(bomb)
    with pytest.raises(FormatError, match="announces 8,000,000,000,000 values"):
        read_arrays(tmp_path / "a.npy")


def test_an_archive_above_the_limit_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("progdist.workdir.arrays.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(2 << 20))
    assert MAX_BYTES > 1 << 30
    with pytest.raises(FormatError, match="holds more than"):
        read_arrays(tmp_path / "a.npz")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(FormatError, match="not a regular file"):
        read_arrays(tmp_path / "a.npz")


def test_a_truncated_member_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    content = (tmp_path / "a.npz").read_bytes()
    where = content.index(IMAGES.tobytes()) + 5
    (tmp_path / "a.npz").write_bytes(content[:where] + b"\xff" + content[where + 1 :])
    with pytest.raises(FormatError, match="CRC"):
        read_arrays(tmp_path / "a.npz")
