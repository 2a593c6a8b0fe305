"""What a tree of arrays holds, as shapes, dtypes and SHA-256, and what files hold.

The leaves' digests say that what was restored is what was saved. Those of the files
find damage without reading the arrays, in parts that no array depends on too.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from progdist.errors import InputError
from progdist.workdir.files import write_bytes

_MANIFEST = "manifest.sha256"  # in the format of sha256sum
_SEAL = "# "


class CheckpointError(InputError):
    """A checkpoint or model is missing, damaged, or not of this configuration."""


class DamageError(CheckpointError):
    """What is on disk is not what was written."""


class Leaf(NamedTuple):
    """What one array is; sha256 is "" where only its form is known."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str = ""


Content = dict[str, Leaf]


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves by their path, as in "state/params/Dense_0/kernel"."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def form_of(tree: Any) -> Content:
    """Returns shapes and dtypes; the leaves may be arrays or stand for them."""
    return {
        name: Leaf(tuple(leaf.shape), str(leaf.dtype))
        for name, leaf in leaves_of(tree).items()
    }


def content_of(tree: Any) -> Content:
    """Returns shapes, dtypes and digests, computed by as many threads as pay."""
    leaves = leaves_of(tree)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        digests = pool.map(_digest, leaves.values())
        return {
            name: Leaf(tuple(leaf.shape), str(leaf.dtype), digest)
            for (name, leaf), digest in zip(leaves.items(), digests, strict=True)
        }


def content_from_json(rows: Mapping[str, Any]) -> Content:
    """Reads what `json` made of a content."""
    return {name: Leaf(tuple(row[0]), row[1], row[2]) for name, row in rows.items()}


def check_form(where: Path, found: Content, wanted: Content) -> None:
    """Refuses arrays of another network, naming the first leaf that differs."""
    for name in sorted(found.keys() | wanted.keys()):
        theirs, ours = found.get(name), wanted.get(name)
        if theirs is None or ours is None or theirs[:2] != ours[:2]:
            raise CheckpointError(
                f"{where}: {name} is {_form(theirs)}, the configuration has "
                f"{_form(ours)}"
            )


def check_content(where: Path, tree: Any, wanted: Content) -> None:
    """Refuses restored arrays that are not what was saved, naming the first."""
    found = content_of(tree)
    for name, leaf in wanted.items():
        if found.get(name) != leaf:
            raise DamageError(f"{where}: the content of {name} is not what was saved")


def fingerprint_of(tree: Any) -> str:
    """Returns one SHA-256 of all names, shapes, dtypes and values."""
    return combined(content_of(tree))


def combined(content: Content, under: str = "") -> str:
    """Returns one SHA-256 of the leaves under a name, all by default; "" if none."""
    rows = sorted(
        (name.removeprefix(under + "/"), *leaf)
        for name, leaf in content.items()
        if not under or name.startswith(under + "/")
    )
    return seal(rows) if rows else ""


def seal(value: Any) -> str:
    """Returns the SHA-256 of plain data, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_manifest(directory: Path) -> None:
    """Writes the digests of all files under a directory, and one of themselves."""
    lines = [
        f"{digest}  {name}" for name, digest in sorted(_file_digests(directory).items())
    ]
    body = "".join(line + "\n" for line in lines)
    seal_line = f"{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}\n"
    write_bytes(directory / _MANIFEST, (seal_line + body).encode())


def has_manifest(directory: Path) -> bool:
    """Whether `write_manifest` has been here."""
    return (directory / _MANIFEST).exists()


def check_manifest(directory: Path) -> None:
    """Refuses a directory that is not as its manifest says; one without passes.

    Raises:
      DamageError: naming the first file that was changed, lost or added.
    """
    path = directory / _MANIFEST
    try:
        seal_line, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return
    if seal_line != (_SEAL + hashlib.sha256(body).hexdigest()).encode():
        raise DamageError(f"{path}: damaged")
    rows = (line.split("  ", 1) for line in body.decode().splitlines())
    wanted = {name: digest for digest, name in rows}
    found = _file_digests(directory)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise DamageError(f"{directory / name}: {_damage(name, found, wanted)}")


def _digest(leaf: Any) -> str:
    values: Any = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    return hashlib.sha256(values).hexdigest()


def _file_digests(directory: Path) -> dict[str, str]:
    names = sorted(
        str(path.relative_to(directory)) for path in _files(directory.rglob("*"))
    )
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: _file_digest(directory / name), names)
        return dict(zip(names, digests, strict=True))


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    ours = _MANIFEST, _MANIFEST + ".part"
    return (path for path in paths if path.is_file() and path.name not in ours)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(name: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    if name not in found:
        return "lost"
    return "damaged" if name in wanted else "does not belong there"


def _form(leaf: Leaf | None) -> str:
    return "none" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
