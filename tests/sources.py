"""Small sources whose examples can be told apart by their labels."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from progdist import data
from progdist.data import ArraySource, Batch, Source

GOLDEN = Path(__file__).parent / "golden"


def numbered(n: int) -> ArraySource:
    """Source whose example i has label i, bright on the left and dark on the right."""
    images = np.zeros((n, 2, 2, 1), np.uint8)
    images[:, :, 0] = 255
    return ArraySource("numbered", images, np.arange(n, dtype=np.int32))


def assert_equal(a: Batch, b: Batch) -> None:
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.label, b.label)


def unpack_cifar10(dir: Path) -> Path:
    """CIFAR-10 as TFDS wrote it; see golden/README.md."""
    pytest.importorskip("tensorflow_datasets", reason="needs the extra `tfds`")
    pytest.importorskip("array_record", reason="needs the extra `tfds`")
    zipfile.ZipFile(GOLDEN / "tfds_cifar10.zip").extractall(dir)
    return dir


def open_cifar10(dir: Path, split: str = "train", image_shape=None) -> Source:
    return data.open_source("tfds", split, str(dir), "cifar10", image_shape)
