"""The IDX format of MNIST and Fashion-MNIST, plain or gzipped.

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

import numpy as np
from jaxtyping import UInt8

from progdist.data.source import DataError

# A header is data from outside: it must not be able to ask for any amount of memory.
MAX_BYTES = 1 << 30


def read_idx(path: str | os.PathLike[str], num_dims: int) -> UInt8[np.ndarray, "..."]:
    """Reads one IDX file of uint8 values.

    Args:
      path: the file; gzipped if its name ends in .gz.
      num_dims: dimensions that the file must have: 3 for images, 1 for labels.

    Raises:
      DataError: if the header is not that of such a file, or the values are fewer or
        more than it announces; the message names the file.
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
        found = "more" if len(values) > size else f"only {len(values)}"
        raise DataError(
            f"{path}: the header announces {size} values, the file holds {found}; "
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
