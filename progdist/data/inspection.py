"""What is wrong with the files of a folder, before training starts on them."""

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from progdist.data import cache, images
from progdist.data.images import ImageError
from progdist.data.listing import Listing, printable
from progdist.data.progress import counting
from progdist.data.workers import read_ahead

_FILES_AT_A_TIME = 16
_MOST_NAMED = 20
_KEEP_SECONDS = 60.0


def inspect(root: Path, listing: Listing, num_workers: int) -> dict[int, str]:
    """Decodes every file that is not known to be good.

    What was found good is kept once a minute, and where this is interrupted.

    Returns:
      The reason why a file cannot be used, by its row in the listing.
    """
    if cache.recall(root, listing).all():
        return {}
    with cache.exclusive(root):
        good = cache.recall(root, listing)
        known = good.copy()
        try:
            return _inspect(root, listing, good, num_workers)
        finally:
            if (good != known).any():
                cache.keep(root, listing.where(good))


def report(listing: Listing, bad: dict[int, str]) -> str:
    """A line for each of the first bad files, and how many more there are."""
    rows = sorted(bad)
    lines = [
        f"  {printable(listing.names[row])}: {bad[row]}" for row in rows[:_MOST_NAMED]
    ]
    if len(rows) > _MOST_NAMED:
        lines.append(f"  and {len(rows) - _MOST_NAMED:,} more")
    return "\n".join(lines)


def read_file(path: str | os.PathLike[str] | bytes) -> bytes:
    """Reads a file.

    Raises:
      ImageError: if it cannot be read, is no regular file or is too large.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise ImageError("not a regular file")
        if status.st_size > images.MAX_BYTES:
            raise ImageError(f"above the limit of {images.MAX_BYTES >> 20} MiB")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def _inspect(
    root: Path, listing: Listing, good: Bool[np.ndarray, " n"], num_workers: int
) -> dict[int, str]:
    """Completes `good`; the rest is returned."""

    def reasons(rows: list[int]) -> list[tuple[int, str]]:
        paths = (os.path.join(os.fsencode(root), listing.names[row]) for row in rows)
        return [(row, _reason(path)) for row, path in zip(rows, paths, strict=True)]

    todo, bad = np.flatnonzero(~good).tolist(), dict[int, str]()
    parts: Iterable[list[int]] = (
        todo[i : i + _FILES_AT_A_TIME] for i in range(0, len(todo), _FILES_AT_A_TIME)
    )
    kept = time.monotonic()
    with counting("trying images", len(todo)) as advance:
        for found in read_ahead(reasons, parts, num_workers):
            for row, reason in found:
                good[row] = not reason
                if reason:
                    bad[row] = reason
            advance(len(found))
            if time.monotonic() - kept > _KEEP_SECONDS:
                cache.keep(root, listing.where(good))
                kept = time.monotonic()
    return bad


def _reason(path: bytes) -> str:
    """Why a file cannot be used; empty if it can."""
    try:
        images.verify(read_file(path))
    except ImageError as error:
        return str(error)
    return ""
