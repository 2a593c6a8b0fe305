"""Image files below a directory, in an order that depends only on their names.

Names are bytes, as in the file system, and relative to the directory. Hidden files and
directories (".name") and by-products of other programs are skipped; files with other
suffixes are counted.

Links to files and directories are followed, but no directory (by device and inode) is
entered twice, so loops end and no image counts twice. A directory takes precedence over
links to it.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt64

from progdist.data import identity, images
from progdist.data.images import ImageError
from progdist.data.source import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_ENDS = tuple(suffix.encode() for suffix in SUFFIXES)
_BY_PRODUCTS = b"__MACOSX", b"lost+found", b"@eaDir", b"Thumbs.db", b"desktop.ini"
_BESIDE = b"dataset.json", b"request.json"  # written beside images
_MOST_KINDS = 5


class Listing(NamedTuple):
    """Files in the order of their names.

    Attributes:
      names: relative to the directory, ascending.
      stamps: of name, size, times and inode; 0 for a broken link.
      ignored: number of other files by suffix, in lower case.
    """

    names: list[bytes]
    stamps: UInt64[np.ndarray, " n"]
    ignored: Counter[bytes]

    def ignored_files(self) -> str:
        """Returns "ignored 3 .txt, 1 .psd", or "" if no file is ignored."""
        kinds = sorted(self.ignored.items(), key=lambda kind: (-kind[1], kind[0]))
        names = [f"{n:,} {printable(s) or 'no suffix'}" for s, n in kinds[:_MOST_KINDS]]
        rest = sum(count for _, count in kinds[_MOST_KINDS:])
        names += [f"{rest:,} others"] if rest else []
        return f"ignored {', '.join(names)}" if names else ""


@runtime_checkable
class Files(Protocol):
    """Files below a directory, or in an archive; safe to use from threads."""

    @property
    def where(self) -> str:
        """Path of the directory, for messages and as a key."""
        ...

    def entries(self) -> dict[str, bool]:
        """Names directly below, in their order, and whether each is a directory.

        Raises:
          DataError: if it cannot be read.
        """
        ...

    def below(self, name: str) -> "Files":
        """Returns the files of a directory among the entries."""
        ...

    def listing(self) -> Listing:
        """Lists the images.

        Raises:
          DataError: if a directory cannot be read.
        """
        ...

    def read(self, name: bytes) -> bytes:
        """Reads a file.

        Raises:
          ImageError: if it cannot be read, or is too large.
        """
        ...


class Directory(NamedTuple):
    """Files below a directory of the file system."""

    root: Path

    @property
    def where(self) -> str:
        """Path of the directory, on one line."""
        return printable(self.root)

    def entries(self) -> dict[str, bool]:
        """Names directly below, and whether each is a directory."""
        found = _entries(os.fsencode(self.root), b"", set())
        return {os.fsdecode(e.name): is_dir(e) for e in sorted(found, key=_name_of)}

    def below(self, name: str) -> "Directory":
        """Returns the files of a directory among the entries."""
        return Directory(self.root / name)

    def listing(self) -> Listing:
        """Lists the images."""
        return list_images(self.root)

    def read(self, name: bytes) -> bytes:
        """Reads a file; refuses a pipe, which would never end."""
        path = os.path.join(os.fsencode(self.root), name)
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            check_size(status.st_size)
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error


def list_images(root: str | os.PathLike[str]) -> Listing:
    """Lists the image files below `root`.

    Raises:
      DataError: if a directory cannot be read.
    """
    top = os.fsencode(root)
    names, ignored = select_images(_walk(top))
    stamps = (_stamp(os.path.join(top, name), name) for name in names)
    return Listing(names, np.fromiter(stamps, np.uint64, len(names)), ignored)


def select_images(names: Iterable[bytes]) -> tuple[list[bytes], Counter[bytes]]:
    """Returns the names of images, ascending, and the number of others by suffix."""
    chosen, ignored = list[bytes](), Counter[bytes]()
    for name in names:
        lower = name.lower()
        if lower.endswith(_ENDS):
            chosen.append(name)
        elif os.path.basename(lower) not in _BESIDE:
            ignored[os.path.splitext(lower)[1]] += 1
    return sorted(chosen), ignored


def is_image(name: bytes) -> bool:
    """Whether the name is that of an image file."""
    return name.lower().endswith(_ENDS)


def is_skipped(name: bytes) -> bool:
    """Whether the entry of a directory is hidden, or a by-product."""
    return name.startswith(b".") or name in _BY_PRODUCTS


def check_size(num_bytes: int) -> None:
    """Raises an ImageError if a file is too large to be read."""
    if num_bytes > images.MAX_BYTES:
        raise ImageError(f"above the limit of {images.MAX_BYTES >> 20} MiB")


def printable(path: str | bytes | os.PathLike[Any]) -> str:
    """Returns a path on one line; escapes everything that is not printable."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in os.fsdecode(path)
    )


def is_dir(entry: os.DirEntry[Any]) -> bool:
    """Whether the entry is a directory or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(root: bytes) -> Iterator[bytes]:
    """Yields the names of the files, in no particular order."""
    entered: set[tuple[int, int]] = set()
    below, links = [b""], list[bytes]()
    while below or links:
        if not below:  # real directories come before links to them
            links.sort(reverse=True)
            below.append(links.pop())
        here = below.pop()
        for entry in _entries(root, here, entered):
            name = here + entry.name
            if is_dir(entry):
                (links if entry.is_symlink() else below).append(name + b"/")
            else:
                yield name


def _entries(
    root: bytes, here: bytes, entered: set[tuple[int, int]]
) -> list[os.DirEntry[bytes]]:
    """Returns the entries of a directory; none if it has been entered before."""
    path = os.path.join(root, here) if here else root
    try:
        status = os.stat(path)
        inode = status.st_dev, status.st_ino
        if inode in entered:
            return []
        entered.add(inode)
        with os.scandir(path) as entries:
            return [entry for entry in entries if not is_skipped(entry.name)]
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from error


def _name_of(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def _stamp(path: bytes, name: bytes) -> int:
    try:
        return identity.stamp(name, os.stat(path))
    except OSError:  # a broken link, or one to itself; reading it gives the reason
        return 0
