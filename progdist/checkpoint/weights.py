"""Reads weights from PyTorch .pth files and numpy pickles, as arrays.

Both formats are pickles, and a pickle is a program. An allow-list admits ordered
dictionaries, arrays and numbers; a file that asks for anything else is refused.
"""

import contextlib
import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from progdist.errors import InputError

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


class WeightsError(InputError):
    """Weights are missing, malformed or not the expected ones."""


def read_torch(path: Path) -> Arrays:
    """Reads a state dictionary written by torch.save, in either of its formats.

    Raises:
      WeightsError: if it is something else, or asks for what is not allowed.
    """
    with path.open("rb") as file, _refused_if_damaged(path):
        read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
        file.seek(0)
        return _checked(read(file))


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
        raise WeightsError(f"{path}: not a file of weights ({error})") from None


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
            return np.dtype(_DTYPES[global_name])
        if name not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {name}, which is not allowed")
        return self._allowed[name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, count, *rest = pid
        if kind != "storage" or self._storage is None or any(rest):
            raise pickle.UnpicklingError(f"it asks for the object {pid!r:.60}")
        return self._storage(str(key), dtype, count)


def rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object
) -> np.ndarray:
    """Returns a view of a storage; offset and strides count elements."""
    ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    least = min([offset, *shape, *strides], default=0)
    if least < 0 or (math.prod(shape) and offset + sum(ends) >= len(storage)):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    steps = tuple(s * storage.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, steps, writeable=False
    )


_TORCH = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}
_reconstruct = np.empty(0).__reduce__()[0]
_NUMPY = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
}


def _read_zip(file: io.BufferedIOBase) -> Any:
    """Reads the format of PyTorch 1.6 and later: data.pkl, and a file per storage."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = next((name for name in names if name.endswith("data.pkl")), "")
        folder = pickled.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in names and archive.read(order) != b"little":
            raise ValueError("its byte order is not little-endian")

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            data = archive.read(f"{folder}data/{key}")
            return np.frombuffer(data, dtype, count)

        text = io.BytesIO(archive.read(pickled))
        return _Unpickler(text, _TORCH, storage).load()


def _read_legacy(file: io.BufferedIOBase) -> Any:
    """Reads the older format: pickles, the last of them the keys, then the storages.

    A storage's content comes after the tensors that are views of it, so each storage is
    allocated first and filled at the end.
    """
    storages: dict[str, np.ndarray] = {}
    size = file.seek(0, io.SEEK_END)
    file.seek(0)

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if not 0 <= count * dtype.itemsize <= size:
            raise pickle.UnpicklingError("a storage is larger than the file")
        return storages.setdefault(key, np.zeros(count, dtype))

    magic, _, facts = (_Unpickler(file, {}).load() for _ in range(3))
    if magic != _MAGIC or not facts["little_endian"]:
        raise ValueError("it is neither of PyTorch's formats, or not little-endian")
    tree = _Unpickler(file, _TORCH, storage).load()
    for key in _Unpickler(file, {}).load():
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
