"""CIFAR-10 from its original archive, which is downloaded if it is missing.

The archive is read in place: members are chosen by their whole names, and nothing is
extracted. A record of a member is the label, one byte, and 3x32x32 bytes: the red, the
green and the blue plane, each row by row.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from progdist.data.download import DownloadError, Remote, check_sha256, fetch
from progdist.data.source import ArraySource, DataError
from progdist.workdir.files import cache_dir, expand

# https://www.cs.toronto.edu/~kriz/cifar.html publishes the MD5, TFDS the others.
ARCHIVE = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)
MEMBERS = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}
_SHAPE = 3, 32, 32
_RECORD = 1 + 3 * 32 * 32
_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def open_cifar10(split: str, dir: str = "") -> ArraySource:
    """Opens images of 32x32x3, in the order of the archive.

    Args:
      split: "train" or "test".
      dir: the archive, or its directory; "" is $XDG_CACHE_HOME/progdist/data.

    Raises:
      DataError: if there is no archive in `dir`, it is not the published one, or it
        cannot be downloaded.
    """
    if split not in MEMBERS:
        raise DataError(f"data 'cifar10' has the splits train and test, not {split!r}")
    path = archive_path(dir)
    if not dir and not path.exists():
        _download(path)
    check_sha256(path, ARCHIVE.sha256, DataError)
    records = _read(path, split).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)
    labels = records[:, 0].astype(np.int32)
    return ArraySource("cifar10", np.ascontiguousarray(images), labels, _CLASSES)


def archive_path(dir: str = "") -> Path:
    """Returns the path of the archive; see `open_cifar10`."""
    path = expand(dir) if dir else cache_dir() / "data"
    return path if path.is_file() else path / ARCHIVE.name


def _download(path: Path) -> None:
    try:
        fetch(ARCHIVE, path)
    except DownloadError as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({error}); pass a copy of the archive "
            "as --config.data.dir=FILE"
        ) from None


def _read(path: Path, split: str) -> UInt8[np.ndarray, " n"]:
    """Returns the records of a split; the digest vouches for their form."""
    with tarfile.open(path) as tar:
        names = (f"cifar-10-batches-bin/{name}" for name in MEMBERS[split])
        files: list[Any] = [tar.extractfile(name) for name in names]
        return np.frombuffer(b"".join(file.read() for file in files), np.uint8)
