"""Reads weights from PyTorch .pth files and numpy pickles, as arrays.

Both formats are pickles, and a pickle is a program. An allow-list admits ordered
dictionaries, arrays and numbers; a file that asks for anything else is refused. So is
one that would take more memory than a few times its own size.
"""

import contextlib
import functools
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from progdist.errors import InputError, reason_of

Arrays = dict[str, np.ndarray]

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's format before 1.6
_MOST_PICKLED = 2**26  # bytes; that of a large model takes a few million
_MOST_SHARED = 2  # bytes of the tensors per byte of the file
_PUTS = "PUT", "BINPUT", "LONG_BINPUT"


class WeightsError(InputError):
    """Weights are missing, malformed or not the expected ones."""


def read_torch(path: Path) -> Arrays:
    """Reads a state dictionary written by torch.save, in either of its formats.

    Raises:
      WeightsError: if it is something else, or asks for what is not allowed.
    """
    with path.open("rb") as file, _refused_if_damaged(path):
        read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        arrays = _checked(read(file, size))
        if sum(array.nbytes for array in arrays.values()) > _MOST_SHARED * size:
            raise ValueError("its tensors are larger than the file")
        return arrays


def read_numpy_pickle(path: Path) -> dict[str, list[np.ndarray]]:
    """Reads a pickled dictionary of lists of numpy arrays.

    Raises:
      WeightsError: if it is something else, or asks for what is not allowed.
    """
    with path.open("rb") as file, _refused_if_damaged(path):
        tree = _Unpickler(file, _NUMPY).load()
        return {str(name): [_checked_array(a) for a in tree[name]] for name in tree}


@contextlib.contextmanager
def _refused_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = reason_of(error)
        raise WeightsError(f"{path}: not a file of weights ({reason})") from None


class _Unpickler(pickle.Unpickler):
    """Unpickler of the allowed names; persistent ids are storages."""

    def __init__(
        self,
        file: io.BufferedIOBase,
        allowed: dict[str, Any],
        storage: Callable[[str, np.dtype, int], np.ndarray] | None = None,
    ) -> None:
        # Python 2 wrote some of the files; latin1 keeps their bytes.
        super().__init__(file, encoding="latin1")
        self._allowed, self._storage = allowed, storage

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if module_name == "torch" and global_name in _DTYPES:
            return global_name
        if name not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {name}, which is not allowed")
        return self._allowed[name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count, *rest = pid
        if kind != "storage" or self._storage is None or any(rest):
            raise pickle.UnpicklingError(f"it asks for the object {pid!r:.60}")
        return self._storage(str(key), np.dtype(_DTYPES[dtype]), count)


def _load(
    file: io.BufferedIOBase,
    allowed: dict[str, Any],
    storage: Callable[[str, np.dtype, int], np.ndarray] | None = None,
) -> Any:
    """Unpickles the next object of a file.

    The memo is a list, which an index beyond the objects so far would only enlarge.
    """
    start = file.tell()
    opcodes: Any = pickletools.genops(cast(Any, file))
    for number, (opcode, value, _) in enumerate(opcodes):
        if opcode.name in _PUTS and not 0 <= int(value or 0) <= number:
            raise pickle.UnpicklingError(f"it remembers object {value} of {number}")
        if file.tell() - start > _MOST_PICKLED:
            raise pickle.UnpicklingError(f"a pickle of above {_MOST_PICKLED:,} bytes")
    file.seek(start)
    return _Unpickler(file, allowed, storage).load()


def rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object
) -> np.ndarray:
    """Returns a view of a storage; offset and strides count elements."""
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    least = min([offset, *shape, *strides], default=0)
    num = math.prod(shape)
    beyond = num > len(storage) or (num and offset + sum(ends) >= len(storage))
    if least < 0 or beyond:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    steps = tuple(s * storage.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, steps, writeable=False
    )


def _torch_names() -> dict[str, Any]:
    """Returns what a file may ask for.

    The functions are its own, since a pickle can set attributes of what it asks for.
    """
    return {
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor": lambda *parts: rebuild_tensor(*parts),
        "torch._utils._rebuild_tensor_v2": lambda *parts: rebuild_tensor(*parts),
        "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    }


_reconstruct = np.empty(0).__reduce__()[0]
_NUMPY = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}


def _read_zip(file: io.BufferedIOBase, size: int) -> Any:
    """Reads the format of PyTorch 1.6 and later: data.pkl, and a file per storage."""
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, size)
        names = archive.namelist()
        pickled = next((name for name in names if name.endswith("data.pkl")), "")
        folder = pickled.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError("its byte order is not little-endian")
        read = functools.cache(archive.read)  # tensors may share a storage

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            content = read(f"{folder}data/{key}")
            if not 0 <= count * dtype.itemsize <= len(content):
                raise pickle.UnpicklingError("a storage is larger than its member")
            return np.frombuffer(content, dtype, count)

        return _load(io.BytesIO(archive.read(pickled)), _torch_names(), storage)


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses an archive that is not as torch.save writes it: nothing is compressed."""
    members = archive.infolist()
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED
        if not stored or member.file_size != member.compress_size:
            raise ValueError(f"its member {member.filename!r:.60} is compressed")
        parts = PurePosixPath(member.filename).parts
        if ".." in parts or "/" in parts:
            raise ValueError(f"its member {member.filename!r:.60} is outside of it")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")


def _read_legacy(file: io.BufferedIOBase, size: int) -> Any:
    """Reads the older format: pickles, the last of them the keys, then the storages.

    A storage's content comes after the tensors that are views of it, so each storage is
    allocated first and filled at the end.
    """
    storages: dict[str, np.ndarray] = {}
    left = size

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise pickle.UnpicklingError("a storage is larger than the file")
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    magic, _, facts = (_load(file, {}) for _ in range(3))
    if magic != _MAGIC or not facts["little_endian"]:
        raise ValueError("it is neither of PyTorch's formats, or not little-endian")
    tree = _load(file, _torch_names(), storage)
    for key in _load(file, {}):
        into = storages[str(key)]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(into.nbytes)
        if count != len(into) or len(data) != into.nbytes:
            raise EOFError("it ends early")
        into[:] = np.frombuffer(data, into.dtype)
    return tree


def _checked(tree: Any) -> Arrays:
    if not isinstance(tree, dict):
        raise ValueError("it holds no dictionary of tensors")
    return {str(name): _checked_array(leaf) for name, leaf in tree.items()}


def _checked_array(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fiub":
        raise ValueError(f"it holds a {type(leaf).__name__} in place of an array")
    return leaf
