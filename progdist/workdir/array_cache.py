"""Cache of computed arrays; each set is stored under a key.

A file holds the arrays, the key and a digest of the arrays. A file that is damaged, or
has another key, counts as missing. Keys that differ in their entry `environment` alone
share a file.
"""

import contextlib
import hashlib
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from progdist.workdir.files import cache_dir, write_whole

Arrays = dict[str, np.ndarray]
Key = dict[str, Any]  # plain data: everything the arrays depend on

_DAMAGED = OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error


def path_of(directory: str | Path, key: Key) -> Path:
    """Returns the file of a key; a relative directory is one of the cache."""
    named = {entry: value for entry, value in key.items() if entry != "environment"}
    name = hashlib.sha256(_text(named).encode()).hexdigest()[:32]
    root = Path() if Path(directory).is_absolute() else cache_dir()
    return root / directory / f"{name}.npz"


def load(directory: str | Path, key: Key) -> Arrays | None:
    """Returns the arrays saved under a key, or None."""
    try:
        # Opened here, since np.load does not close a damaged file.
        path = path_of(directory, key)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = dict(members)
        text, digest = str(arrays.pop("key")), str(arrays.pop("digest"))
    except _DAMAGED:
        return None
    return arrays if text == _text(key) and digest == digest_of(arrays) else None


def save(directory: str | Path, key: Key, arrays: Arrays, otherwise: str) -> None:
    """Writes arrays; on failure prints the reason and `otherwise` on stderr."""
    path = path_of(directory, key)
    notes = {"key": np.array(_text(key)), "digest": np.array(digest_of(arrays))}
    try:
        write_whole(path, lambda file: np.savez(file, **arrays, **notes))  # pyright: ignore
    except OSError as error:
        print(f"{path}: {error.strerror}; {otherwise}", file=sys.stderr)


def remove(directory: str | Path, key: Key) -> None:
    """Removes the arrays saved under a key, and their directory if it is empty."""
    path = path_of(directory, key)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def digest_of(arrays: Arrays) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
