"""Image files below a directory, in an order that depends only on their names.

Names are bytes, as in the file system, and relative to the directory. Hidden files and
directories (".name") are skipped; files with other suffixes are counted.

Links to files and directories are followed, but no directory (by device and inode) is
entered twice, so loops end and no image counts twice. A directory takes precedence over
links to it.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from progdist.data.source import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_ENDS = tuple(suffix.encode() for suffix in SUFFIXES)
# Written beside images by data tools, `progdist.sample` and file managers.
_BESIDE = b"dataset.json", b"request.json", b"thumbs.db", b"desktop.ini"
_MOST_KINDS = 5


class Listing(NamedTuple):
    """Files in the order of their names.

    Attributes:
      names: relative to the directory, ascending.
      sizes: in bytes; -1 for a broken link.
      stamps: digests of name, size and time of the last change.
      ignored: number of files with each other suffix, in lower case.
    """

    names: list[bytes]
    sizes: Int64[np.ndarray, " n"]
    stamps: UInt64[np.ndarray, " n"]
    ignored: Counter[bytes]

    def ignored_files(self) -> str:
        """Returns "ignored 3 .txt, 1 .psd", or "" if no file is ignored."""
        kinds = sorted(self.ignored.items(), key=lambda kind: (-kind[1], kind[0]))
        names = [f"{n:,} {printable(s) or 'no suffix'}" for s, n in kinds[:_MOST_KINDS]]
        rest = sum(count for _, count in kinds[_MOST_KINDS:])
        names += [f"{rest:,} others"] if rest else []
        return f"ignored {', '.join(names)}" if names else ""


def list_images(root: str | os.PathLike[str]) -> Listing:
    """Lists the image files below `root`.

    Raises:
      DataError: if a directory cannot be read.
    """
    top = os.fsencode(root)
    ignored = Counter[bytes]()
    names = sorted(_walk(top, ignored))
    sizes, stamps = np.empty(len(names), np.int64), np.empty(len(names), np.uint64)
    for row, name in enumerate(names):
        sizes[row], time = _size_and_time(os.path.join(top, name))
        text = b"%s\0%d\0%d" % (name, sizes[row], time)
        digest = hashlib.blake2b(text, digest_size=8).digest()
        stamps[row] = int.from_bytes(digest, "little")
    return Listing(names, sizes, stamps, ignored)


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


def _walk(root: bytes, ignored: Counter[bytes]) -> Iterator[bytes]:
    """Yields the names of the images, in no particular order; counts other files."""
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
            elif name.lower().endswith(_ENDS):
                yield name
            elif entry.name.lower() not in _BESIDE:
                ignored[os.path.splitext(entry.name.lower())[1]] += 1


def _entries(
    root: bytes, here: bytes, entered: set[tuple[int, int]]
) -> list[os.DirEntry[bytes]]:
    """Returns the entries of a directory; none if it has been entered before."""
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
    except OSError:  # a broken link, or one to itself; reading it gives the reason
        return -1, -1
    return status.st_size, status.st_mtime_ns
