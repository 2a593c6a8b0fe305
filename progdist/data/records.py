"""Digests of the files of records that `prepare` wrote.

`digests.json` beside the files holds their sizes and SHA-256. It is believed for files
that are not newer; any other file is read once, and its digest is remembered.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from progdist.data import cache, identity
from progdist.data.listing import printable
from progdist.data.progress import counting
from progdist.data.source import DataError
from progdist.workdir.files import write_bytes

FILE = "digests.json"


def write_digests(directory: Path) -> None:
    """Writes sizes and digests of all files of records in a directory."""
    digests = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path).hex()}
        for path in _paths(directory)
    }
    write_bytes(directory / FILE, json.dumps(digests, indent=2).encode())


def digests_of(directory: Path) -> dict[str, bytes]:
    """Returns the SHA-256 of each file of records in a directory, by name.

    Raises:
      DataError: if a file has another size than `digests.json` says.
    """
    paths, recorded = _paths(directory), _recorded(directory)
    unknown = [path for path in paths if path.name not in recorded]
    return recorded | dict(_computed(directory, unknown)) if unknown else recorded


def _paths(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.array_record*"))


def _recorded(directory: Path) -> dict[str, bytes]:
    """Returns the digests that `digests.json` holds of files not newer than itself."""
    try:
        written = (directory / FILE).stat().st_mtime_ns
        entries = json.loads((directory / FILE).read_bytes()).items()
        known = {n: (int(e["size"]), bytes.fromhex(e["sha256"])) for n, e in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    digests = {}
    for path in _paths(directory):
        size, digest = known.get(path.name, (None, b""))
        status = path.stat()
        if size not in (None, status.st_size):
            raise DataError(
                f"{path}: has {status.st_size:,} bytes, not {size:,} as in {FILE}; "
                "prepare the data again"
            )
        if size is not None and status.st_mtime_ns <= written:
            digests[path.name] = digest
    return digests


def _computed(directory: Path, paths: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Yields names and digests; reads the files that it does not remember."""
    stamps = [identity.stamp(os.fsencode(path.name), path.stat()) for path in paths]
    numbers, where = np.array(stamps, np.uint64), printable(directory)
    good, digests = cache.recall(where, numbers)
    with counting("reading the files of records", int((~good).sum())) as advance:
        for row in np.flatnonzero(~good).tolist():
            digests[row] = np.frombuffer(_sha256(paths[row]), np.uint8)
            advance(1)
    if not good.all():
        cache.keep(where, numbers, cache.Known(np.ones_like(good), digests))
    return ((path.name, digests[row].tobytes()) for row, path in enumerate(paths))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
