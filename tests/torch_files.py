"""Files as torch.save writes them, without PyTorch: a zip of data.pkl and storages.

The parts are public, so that a test can put wrong ones together.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "float16": "HalfStorage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
}


def fragment(value: Any) -> bytes:
    """The opcodes that push plain data."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def tensor(
    key: str,
    storage: str,
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
) -> bytes:
    """The opcodes that push a tensor, a view of a storage."""
    place = b"(" + fragment("storage") + b"ctorch\n" + storage.encode() + b"\n"
    place += fragment(key) + fragment("cpu") + fragment(count) + b"tQ"
    view = fragment(offset) + fragment(shape) + fragment(strides) + b"\x89"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + view + hooks + b"tR"


def dictionary(parts: Mapping[Any, bytes]) -> bytes:
    """A pickle of an ordered dictionary with these values."""
    items = b"".join(fragment(name) + value for name, value in parts.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def archive(
    members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> bytes:
    """A zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return content.getvalue()


def state_dict(arrays: Mapping[str, np.ndarray], folder: str = "archive/") -> bytes:
    """A file of a state dictionary."""
    parts, members = {}, []
    for key, (name, array) in enumerate(arrays.items()):
        steps = tuple(s // array.itemsize for s in array.copy("C").strides)
        storage = STORAGES[array.dtype.name]
        parts[name] = tensor(str(key), storage, array.size, array.shape, steps)
        members.append((f"{folder}data/{key}", array.tobytes()))
    pickled = f"{folder}data.pkl", dictionary(parts)
    return archive([pickled, (f"{folder}version", b"3\n"), *members])


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes a file of a state dictionary."""
    path.write_bytes(state_dict(arrays))
    return path
