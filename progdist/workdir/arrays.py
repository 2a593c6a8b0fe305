"""Arrays in .npz and .npy files, which may come from strangers.

Nothing is unpickled, and the memory that a file asks for is compared with its size
before any of it is allocated.
"""

import io
import math
import os
import stat
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int, UInt8

from progdist.workdir.files import FormatError, write_npz

MAX_BYTES = 1 << 35  # of all arrays of a file, decompressed
_MAX_HEADER = 10_000  # bytes, as in NumPy


def read_arrays(path: Path, names: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, or the one of an .npy file as "images".

    Args:
      path: the file.
      names: arrays to read, of those that are there; empty for all.

    Raises:
      FormatError: if it is not a complete file of arrays, or announces more than it
        holds or than `MAX_BYTES`; names the file.
      FileNotFoundError: if it does not exist.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would never end
            raise ValueError("not a regular file")
        # Opened here, since np.load does not close a file that it cannot read.
        with path.open("rb") as file:
            return _read(file, names)
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"{path}: not a whole npz file: {why}") from None


def read_images(path: Path) -> tuple[UInt8[np.ndarray, "n h w c"], np.ndarray | None]:
    """Reads images and labels: `images` or `arr_0`, and `labels` if there are any.

    Grey images may lack the last axis.

    Raises:
      FormatError: if there are no images, or they are of another kind.
      FileNotFoundError: if there is no such file.
    """
    arrays = read_arrays(path, ("images", "arr_0", "labels"))
    name = images_name(arrays, path)
    images = arrays[name]
    if images.ndim == 3 and images.shape[-1] not in (1, 3):
        images = images[..., None]
    check_array(images, np.uint8, "n h w c", name, path)
    labels = arrays.get("labels")
    if labels is not None and labels.shape != images.shape[:1]:
        shapes = f"{shape_text(labels.shape)}, images {shape_text(images.shape)}"
        raise FormatError(f"{path}: labels are {shapes}")
    return images, labels


def write_images(
    path: Path,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"] | None = None,
    **notes: int | str,
) -> Path:
    """Writes images as `arr_0`, as evaluators of the field read them, and `labels`.

    Args:
      path: the .npz file.
      images: the images.
      labels: class of each; None without classes.
      notes: values to keep next to the images.

    Raises:
      OSError: as for `progdist.workdir.files.write_whole`.
    """
    arrays = {name: np.array(value) for name, value in notes.items()}
    if labels is not None:
        arrays["labels"] = labels
    return write_npz(path, arr_0=images, **arrays)


def images_name(arrays: Collection[str], path: Path) -> str:
    """Returns the name of the array of images.

    Raises:
      FormatError: if there is none.
    """
    for name in ("images", "arr_0"):
        if name in arrays:
            return name
    raise FormatError(f"{path}: lacks images (arr_0)")


def check_array(
    array: np.ndarray, kind: type[np.generic], axes: str, name: str, path: Path
) -> None:
    """Checks that an array is not empty and has the right kind and axes.

    Args:
      array: the array.
      kind: scalar type of its numbers.
      axes: names of its axes, such as "n h w c"; c must be 1 or 3.
      name: name of the array, for the message.
      path: path of its file, for the message.

    Raises:
      FormatError: with the actual and the accepted kind and shape.
    """
    if (
        not np.issubdtype(array.dtype, kind)
        or array.ndim != len(axes.split())
        or not array.size
        or (axes.endswith("c") and array.shape[-1] not in (1, 3))
    ):
        actual = f"{array.dtype!s:.40} {shape_text(array.shape)}"
        accepted = f"{kind.__name__} ({axes})" if axes else f"one {kind.__name__}"
        raise FormatError(f"{path}: {name} is {actual}, not {accepted}")


def shape_text(shape: tuple[int, ...]) -> str:
    """Returns the shape as "(3, 4)"."""
    return f"({', '.join(map(str, shape))})"


def _read(file: BinaryIO, names: Collection[str]) -> dict[str, np.ndarray]:
    if file.read(6) == np.lib.format.MAGIC_PREFIX:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return {"images": _array(file, size, "it")}
    with zipfile.ZipFile(file) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        chosen = {n: m for n, m in members.items() if not names or n in names}
        if sum(member.file_size for member in chosen.values()) > MAX_BYTES:
            raise ValueError(f"holds more than {MAX_BYTES >> 30} GiB")
        arrays = {}
        for name, member in chosen.items():
            with archive.open(member) as part:
                arrays[name] = _array(part, member.file_size, name)
                part.read(1)  # compares the checksum, which the last bytes may lack
        return arrays


def _array(file: Any, size: int, name: str) -> np.ndarray:
    """Reads one array from the next `size` bytes, of which its header tells the truth.

    NumPy would allocate whatever the header announces.
    """
    start = np.lib.format
    head = io.BytesIO(file.read(min(size, _MAX_HEADER + 12)))
    if head.getvalue()[:6] != start.MAGIC_PREFIX:
        raise ValueError(f"{name} is not an array")
    major, _ = start.read_magic(head)
    read_header = {1: start.read_array_header_1_0, 2: start.read_array_header_2_0}
    if major not in read_header:
        raise ValueError(f"{name} is an array of format version {major}")
    shape, fortran, dtype = read_header[major](head, _MAX_HEADER)
    if dtype.hasobject:
        raise ValueError(f"{name} is an array of Python objects")
    count, held = math.prod(shape), size - head.tell()
    if count * dtype.itemsize != held:
        raise ValueError(f"{name} announces {count:,} values, which it lacks")
    content, rest = bytearray(held), head.read()
    content[: len(rest)] = rest
    done = len(rest)
    while done < held:
        read = file.readinto(memoryview(content)[done:])
        if not read:
            raise ValueError(f"{name} ends early")
        done += read
    flat = np.frombuffer(content, dtype, count)
    return flat.reshape(shape, order="F" if fortran else "C")
