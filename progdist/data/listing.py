"""The image files below a directory, in an order that only their names decide.

Names are bytes, as the file system has them, and relative to the directory. Hidden
files and directories (".name") are passed over, as is what has another suffix.

Links to files are followed. Links to directories too, but no directory is entered
twice, by its device and inode: loops end, and no image counts twice. Where both a
directory and a link to it are below, the directory counts.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Int64

from progdist.data.source import DataError

SUFFIXES = (b".png", b".jpg", b".jpeg", b".webp")


class Names(Sequence[bytes]):
    """Many names in 8 bytes more than each has."""

    def __init__(self, text: bytes, ends: Int64[np.ndarray, " n"]) -> None:
        """Takes all names, one after the other, and where each ends."""
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Sequence[bytes]) -> "Names":
        """Packs names."""
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        return cls(b"".join(names), np.cumsum(lengths))

    def __len__(self) -> int:
        """Number of names."""
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        """One name, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])]


class Listing(NamedTuple):
    """Files in the order of their names; size and time are -1 where there is none.

    Attributes:
      names: relative to the directory, ascending.
      sizes: in bytes.
      times: of the last change, in nanoseconds.
    """

    names: Names
    sizes: Int64[np.ndarray, " n"]
    times: Int64[np.ndarray, " n"]

    def where(self, chosen: Bool[np.ndarray, " n"]) -> "Listing":
        """The rows where `chosen` is true."""
        rows = np.flatnonzero(chosen)
        names = Names.of([self.names[row] for row in rows.tolist()])
        return Listing(names, self.sizes[rows], self.times[rows])


def list_images(root: str | os.PathLike[str]) -> Listing:
    """Lists the image files below `root`.

    Raises:
      DataError: if a directory cannot be read.
    """
    top = os.fsencode(root)
    names = sorted(_walk(top))
    status = np.empty((2, len(names)), np.int64)
    for row, name in enumerate(names):
        status[:, row] = _size_and_time(os.path.join(top, name))
    return Listing(Names.of(names), *status)


def printable(name: bytes) -> str:
    """The name on one line: letters of any script as they are, the rest escaped."""
    text = os.fsdecode(name)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def is_dir(entry: os.DirEntry[Any]) -> bool:
    """Whether it is a directory or leads to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(root: bytes) -> Iterator[bytes]:
    """Names of the images, in no particular order."""
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
            elif name.lower().endswith(SUFFIXES):
                yield name


def _entries(
    root: bytes, here: bytes, entered: set[tuple[int, int]]
) -> list[os.DirEntry[bytes]]:
    """What is in a directory; nothing where it has been entered before."""
    path = os.path.join(root, here)
    try:
        status = os.stat(path)
        inode = status.st_dev, status.st_ino
        if inode in entered:
            return []
        entered.add(inode)
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(b".")]
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror}") from error


def _size_and_time(path: bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # a link to nowhere, or to itself; the reason is said on reading
        return -1, -1
    return status.st_size, status.st_mtime_ns
