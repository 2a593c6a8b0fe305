"""Inspection of a folder's files, before training starts on them."""

import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from progdist.data import cache, images
from progdist.data.images import ImageError, Rules
from progdist.data.listing import Listing, printable
from progdist.data.progress import counting
from progdist.data.workers import read_ahead

_FILES_AT_A_TIME = 16
_MOST_NAMED = 20
_KEEP_SECONDS = 60.0
_LEAST_OF_16_BITS = 1 << 14  # a highest value below suggests 10, 12 or 14 bits


def inspect(
    root: Path,
    listing: Listing,
    num_workers: int,
    rules: Rules = Rules(),  # noqa: B008, immutable
) -> dict[int, str]:
    """Decodes every file not yet known to be good under the rules.

    Good files are recorded once a minute, and on an interruption. Warns of 16-bit
    images whose values use fewer bits.

    Returns:
      The reason why a file cannot be used, by row of the listing.
    """
    listing = listing._replace(stamps=listing.stamps ^ np.uint64(rules.stamp()))
    if cache.recall(root, listing.stamps).all():
        return {}
    with cache.exclusive(root):
        good = cache.recall(root, listing.stamps)
        known = good.copy()
        try:
            return _inspect(root, listing, good, num_workers, rules)
        finally:
            if (good != known).any():
                cache.keep(root, listing.stamps[good])


def report(listing: Listing, bad: dict[int, str]) -> str:
    """Returns a line for each of the first bad files, and the number of the rest."""
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
      ImageError: if it cannot be read, is not a regular file or is too large.
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
    root: Path,
    listing: Listing,
    good: Bool[np.ndarray, " n"],
    num_workers: int,
    rules: Rules,
) -> dict[int, str]:
    """Returns the reasons by row, and sets `good` for all other rows."""
    top, bad, highest = os.fsencode(root), dict[int, str](), 0

    def results(rows: list[int]) -> dict[int, str | int]:
        paths = (os.path.join(top, listing.names[row]) for row in rows)
        return {row: _result(p, rules) for row, p in zip(rows, paths, strict=True)}

    rest, last = np.flatnonzero(~good).tolist(), time.monotonic()
    starts = range(0, len(rest), _FILES_AT_A_TIME)
    parts = (rest[start : start + _FILES_AT_A_TIME] for start in starts)
    with counting("trying images", len(rest)) as advance:
        for part in read_ahead(results, parts, num_workers):
            bad |= {row: why for row, why in part.items() if isinstance(why, str)}
            good[[row for row in part if row not in bad]] = True
            highest = max(highest, *(v for v in part.values() if isinstance(v, int)), 0)
            advance(len(part))
            if time.monotonic() - last > _KEEP_SECONDS:
                cache.keep(root, listing.stamps[good])
                last = time.monotonic()
    if 0 < highest < _LEAST_OF_16_BITS:
        print(
            f"{printable(root)}: 16-bit images: highest value found {highest}; scale "
            "the values to 0..65535, or the images will be dark",
            file=sys.stderr,
        )
    return bad


def _result(path: bytes, rules: Rules) -> str | int:
    """Returns why a file cannot be used, or what `images.verify` returns."""
    try:
        return images.verify(read_file(path), rules)
    except ImageError as error:
        return str(error)
