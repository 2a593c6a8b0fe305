"""What TFDS has prepared, read without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from progdist.data import ArraySource, DataError, batches, sources
from progdist.data.source import numbered_classes
from progdist.data.tfds import TfdsSource, decode_image
from tests.originals import image_of
from tests.pictures import PIXELS, SHAPE, encoded
from tests.sources import assert_equal, open_cifar10, unpack_cifar10


@pytest.fixture
def prepared_dir(tmp_path):
    return unpack_cifar10(tmp_path)


@pytest.mark.parametrize("fits", [True, False])
def test_tfds_gives_the_pixels_and_labels_that_went_in(prepared_dir, fits, monkeypatch):
    if not fits:
        monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    for split, count in (("train", 10), ("test", 2)):
        source = open_cifar10(prepared_dir, split)
        assert isinstance(source, ArraySource) == fits
        assert (len(source), source.image_shape) == (count, (32, 32, 3))
        assert source.num_classes == 10
        image, label = source.take(np.arange(count)[::-1])
        assert sorted(label) == list(range(count))
        for i in range(count):
            np.testing.assert_array_equal(image[i], image_of(label[i], 32, 32))


def test_from_disk_equals_from_memory(prepared_dir, monkeypatch):
    held = list(batches(open_cifar10(prepared_dir), 0, 0, 9, 7, True))
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    read = list(batches(open_cifar10(prepared_dir), 0, 0, 9, 7, True))
    for a, b in zip(held, read, strict=True):
        assert_equal(a, b)


def test_tfds_images_are_resized_to_the_size_asked_for(prepared_dir):
    source = open_cifar10(prepared_dir, "train[:50%]", (16, 16, 3))
    assert (len(source), source.image_shape) == (5, (16, 16, 3))


@pytest.mark.parametrize("secret", [-1, 10])
def test_a_label_that_is_none_is_refused(secret):
    record = {"image": encoded(image_of(0, 32, 32)), "label": secret}

    class Records:
        def __len__(self):
            return 1

        def __getitems__(self, indices):
            return [record] * len(indices)

    names = numbered_classes(10)
    source = TfdsSource("tfds", Records(), (32, 32, 3), np.arange(10), names, "1:0")
    with pytest.raises(DataError, match="tfds: this split has no labels"):
        source.take(np.array([0]))


def test_images_stand_as_tfds_stores_them():
    exif = Image.Exif()
    exif[0x0112] = 3
    content = encoded(PIXELS, exif=exif)
    np.testing.assert_array_equal(decode_image(content, SHAPE, "lsun"), PIXELS)


def test_an_unknown_split_names_those_that_exist(prepared_dir):
    with pytest.raises(DataError, match=r"'validation'.*train.*test"):
        open_cifar10(prepared_dir, "validation")


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2]])
def test_a_truncated_record_file_is_an_error(prepared_dir, damage):
    (path,) = prepared_dir.glob("cifar10/*/cifar10-train.array_record*")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cifar10.*prepare the data again"):
        open_cifar10(prepared_dir)


def test_a_changed_bit_in_a_record_file_is_an_error(prepared_dir):
    (path,) = prepared_dir.glob("cifar10/*/cifar10-train.array_record*")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cifar10.*prepare the data again"):
        open_cifar10(prepared_dir)


def test_reading_tfds_imports_no_tensorflow(prepared_dir):
    program = (
        "import sys; from progdist.data import open_source\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"open_source('tfds', 'train', {str(prepared_dir)!r}, 'cifar10')\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
