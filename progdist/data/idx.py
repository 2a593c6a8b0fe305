"""MNIST and Fashion-MNIST, in the IDX format, plain or gzipped.

Header, big-endian: two zero bytes, the type (8 = uint8), the number of dimensions,
one uint32 for each; then the values, the last dimension fastest.
Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database".
"""

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from progdist.data.source import ArraySource, DataError, numbered_classes

# A header is untrusted: it must not be able to request arbitrary amounts of memory.
MAX_BYTES = 1 << 30
_DEFAULT_DIRS = {"mnist": "", "fashion_mnist": "/usr/share/datasets/fashion-mnist"}
_PREFIXES = {"train": "train", "test": "t10k"}
_CLASSES = {
    "mnist": numbered_classes(10),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_HINTS = {
    "mnist": "set data.dir to a directory with the four MNIST idx files",
    "fashion_mnist": "install Debian's dataset-fashion-mnist, or set data.dir to a "
    "directory with its four idx files",
}


def open_idx(
    name: Literal["mnist", "fashion_mnist"], split: str, dir: str
) -> ArraySource:
    """Opens images of 28x28x1 from the idx files in `dir`."""
    if split not in _PREFIXES:
        raise DataError(f"data {name!r} has the splits train and test, not {split!r}")
    dir = os.path.expanduser(dir) or _DEFAULT_DIRS[name]
    if not dir:
        raise DataError(f"data {name!r}: {_HINTS[name]}")
    images = read_idx(_path(name, split, dir, "images-idx3"), 3)[..., None]
    labels = read_idx(_path(name, split, dir, "labels-idx1"), 1)
    if len(images) != len(labels):
        raise DataError(f"{dir}: {len(images)} {split} images, {len(labels)} labels")
    if labels.max() > 9:
        raise DataError(f"{dir}: a {split} label is {labels.max()}, above 9")
    return ArraySource(name, images, labels.astype(np.int32), _CLASSES[name])


def read_idx(path: str | os.PathLike[str], num_dims: int) -> UInt8[np.ndarray, "..."]:
    """Reads one IDX file of uint8 values.

    Args:
      path: the file; gzipped if its name ends in .gz.
      num_dims: dimensions that the file must have: 3 for images, 1 for labels.

    Raises:
      DataError: naming the file, if its header is of another kind or announces another
        number of values than the file holds.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _read_shape(file, path, num_dims)
            size = math.prod(shape)
            values = file.read(size + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: not readable ({error}); fetch it again") from error
    if len(values) != size:
        count = "more" if len(values) > size else f"only {len(values)}"
        raise DataError(
            f"{path}: the header announces {size} values, the file holds {count}; "
            "fetch it again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_shape(file: io.BufferedIOBase, path: Path, num_dims: int) -> tuple[int, ...]:
    """Reads and checks the header."""
    header = file.read(4 + 4 * num_dims)
    if header[:4] != bytes((0, 0, 8, num_dims)):
        raise DataError(
            f"{path}: not an IDX file of uint8 in {num_dims} dimensions "
            f"(its first bytes are {header[:4].hex() or 'none'})"
        )
    if len(header) < 4 + 4 * num_dims:
        raise DataError(f"{path}: ends within its header; fetch it again")
    shape = struct.unpack(f">{num_dims}I", header[4:])
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise DataError(
            f"{path}: announces shape {shape}, outside 1..{MAX_BYTES} bytes"
        )
    return shape


def _path(name: str, split: str, dir: str, part: str) -> Path:
    """Returns the file of a part, plain or gzipped."""
    plain = f"{_PREFIXES[split]}-{part}-ubyte"
    # Copies of the original files may have a dot before "idx", or lie in a directory
    # of the same name.
    for stem in (plain, plain.replace("-idx", ".idx")):
        for path in (Path(dir, stem), Path(dir, stem + ".gz"), Path(dir, stem, stem)):
            if path.is_file():
                return path
    raise DataError(f"no {plain}(.gz) in {Path(dir).absolute()}; {_HINTS[name]}")
