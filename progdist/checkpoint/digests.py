"""SHA-256 digests of trees of arrays, and of files.

Digests of a tree's leaves prove that the restored arrays equal the saved ones. Digests
of the files detect damage without reading the arrays, even in parts that no array uses.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from progdist.errors import InputError, escaped
from progdist.workdir import layout
from progdist.workdir.files import write_bytes

_ADDED = layout.MANIFEST, layout.DISTANCES  # written after the files of the manifest
_SEAL = "# "


class CheckpointError(InputError):
    """A checkpoint or model is missing, damaged, or does not fit the configuration."""


class DamageError(CheckpointError):
    """A checkpoint or model changed since it was written."""


class Leaf(NamedTuple):
    """Shape, dtype and digest of an array."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


Leaves = dict[str, Leaf]


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path, as in "state/params/Dense_0/kernel"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def digests_of(tree: Any) -> Leaves:
    """Returns shapes, dtypes and digests; hashes in several threads."""
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        leaves = pool.map(_leaf, leaves_of(tree).values())
        return dict(zip(leaves_of(tree), leaves, strict=True))


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Returns the first key at which two mappings differ; None if they are equal."""
    names = sorted(one.keys() | other.keys())
    return next((name for name in names if one.get(name) != other.get(name)), None)


def check_shapes(where: Path | str, saved: Mapping[str, Any], expected: Any) -> None:
    """Refuses arrays of another network, naming the first leaf that differs.

    Args:
      where: path of the arrays, for the message.
      saved: the saved leaves, or arrays, by path.
      expected: a tree of arrays, or of their shapes and dtypes.
    """
    theirs, ours = (
        {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}
        for leaves in (saved, leaves_of(expected))
    )
    name = first_difference(theirs, ours)
    if name is not None:
        raise CheckpointError(
            f"{where}: {escaped(name)} is {theirs.get(name, 'none')}, but the network "
            f"has {ours.get(name, 'none')}"
        )


def check_digests(where: Path, tree: Any, saved: Leaves) -> None:
    """Refuses restored arrays that differ from the saved ones; names the first."""
    name = first_difference(saved, digests_of(tree))
    if name is not None:
        raise DamageError(f"{where}: the content of {name} is not what was saved")


def fingerprint_of(tree: Any) -> str:
    """Returns one SHA-256 of all names, shapes, dtypes and values."""
    return combined(digests_of(tree))


def combined(leaves: Leaves, under: str = "") -> str:
    """Returns one SHA-256 of the leaves below a path, by default all; "" if none."""
    rows = sorted(
        (name.removeprefix(under + "/"), *leaf)
        for name, leaf in leaves.items()
        if not under or name.startswith(under + "/")
    )
    return seal(rows) if rows else ""


def seal(value: Any) -> str:
    """Returns the SHA-256 of plain data, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_manifest(directory: Path) -> None:
    """Writes the digests of all files in a directory, and a digest of the manifest."""
    rows = sorted(_file_digests(directory).items())
    body = "".join(f"{digest}  {name}\n" for name, digest in rows).encode()
    seal_line = f"{_SEAL}{hashlib.sha256(body).hexdigest()}\n".encode()
    write_bytes(directory / layout.MANIFEST, seal_line + body)


def has_manifest(directory: Path) -> bool:
    """Whether the directory has a manifest."""
    return (directory / layout.MANIFEST).exists()


def check_manifest(directory: Path) -> None:
    """Refuses a directory that differs from its manifest, if it has one.

    Files are read once, and again only when one of them changes.

    Raises:
      DamageError: naming the first file that was changed, lost or added.
    """
    if has_manifest(directory):
        paths = [directory / layout.MANIFEST, *_files(directory)]
        _check_manifest(directory, tuple(map(_stamp, paths)))


@functools.lru_cache(maxsize=8)  # exceptions are not cached
def _check_manifest(directory: Path, stamps: tuple[Any, ...]) -> None:
    path = directory / layout.MANIFEST
    seal_line, _, body = path.read_bytes().partition(b"\n")
    if seal_line != (_SEAL + hashlib.sha256(body).hexdigest()).encode():
        raise DamageError(f"{path}: damaged")
    rows = (line.split("  ", 1) for line in body.decode().splitlines())
    saved = {name: digest for digest, name in rows}
    present = _file_digests(directory)
    name = first_difference(saved, present)
    if name is not None:
        raise DamageError(f"{directory / name}: {_damage(name, present, saved)}")


def _stamp(path: Path) -> tuple[Path, int, int, int]:
    """Returns a value that changes when the file does."""
    status = path.stat()
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _leaf(leaf: Any) -> Leaf:
    values: Any = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    digest = hashlib.sha256(values).hexdigest()
    return Leaf(tuple(leaf.shape), str(leaf.dtype), digest)


def _file_digests(directory: Path) -> dict[str, str]:
    """Returns the digest of each file of the manifest, by its relative path."""
    paths = _files(directory)
    with ThreadPoolExecutor() as pool:
        names = (str(path.relative_to(directory)) for path in paths)
        return dict(zip(names, pool.map(_file_digest, paths), strict=True))


def _files(directory: Path) -> list[Path]:
    # Ignores what is added later, and the temporary files of interrupted writes.
    parts = tuple(f".{name}." for name in _ADDED)
    paths = (path for path in directory.rglob("*") if path.is_file())
    return sorted(
        path
        for path in paths
        if path.name not in _ADDED and not path.name.startswith(parts)
    )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(name: str, present: Mapping[str, str], saved: Mapping[str, str]) -> str:
    if name not in present:
        return "lost"
    return "damaged" if name in saved else "does not belong there"
