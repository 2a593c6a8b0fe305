"""Inspection of a folder's files, before training starts on them."""

import hashlib
import time
from typing import NamedTuple

import numpy as np

from progdist.data import cache, images
from progdist.data.cache import Known
from progdist.data.identity import Digests
from progdist.data.images import ImageError
from progdist.data.listing import Files, Listing, printable
from progdist.data.progress import counting
from progdist.data.workers import read_ahead

_FILES_AT_A_TIME = 16
_MOST_NAMED = 20
_KEEP_SECONDS = 60.0


class Inspection(NamedTuple):
    """Result of the inspection of all files.

    Attributes:
      bad: the reason why a file cannot be used, by row of the listing.
      digests: SHA-256 of the content of each good file, by row.
    """

    bad: dict[int, str]
    digests: Digests


def inspect(files: Files, listing: Listing, num_workers: int) -> Inspection:
    """Decodes every file not yet known to be good.

    Good files are recorded once a minute, and on an interruption.
    """
    known = cache.recall(files.where, listing.stamps)
    if known.good.all():
        return Inspection({}, known.digests)
    with cache.exclusive(files.where):
        known = cache.recall(files.where, listing.stamps)
        before = known.good.copy()
        try:
            bad = _inspect(files, listing, known, num_workers)
        finally:
            if (known.good != before).any():
                cache.keep(files.where, listing.stamps, known)
    return Inspection(bad, known.digests)


def report(listing: Listing, bad: dict[int, str]) -> str:
    """Returns a line for each of the first bad files, and the number of the rest."""
    rows = sorted(bad)
    lines = [
        f"  {printable(listing.names[row])}: {bad[row]}" for row in rows[:_MOST_NAMED]
    ]
    if len(rows) > _MOST_NAMED:
        lines.append(f"  and {len(rows) - _MOST_NAMED:,} more")
    return "\n".join(lines)


def _inspect(
    files: Files, listing: Listing, known: Known, num_workers: int
) -> dict[int, str]:
    """Returns the reasons by row; adds the digests of all other rows to `known`."""
    bad, good = dict[int, str](), known.good

    def results(rows: list[int]) -> list[tuple[int, str, bytes]]:
        return [(row, *_result(files, listing.names[row])) for row in rows]

    rest, last = np.flatnonzero(~good).tolist(), time.monotonic()
    starts = range(0, len(rest), _FILES_AT_A_TIME)
    parts = (rest[start : start + _FILES_AT_A_TIME] for start in starts)
    with counting("trying images", len(rest)) as advance:
        for part in read_ahead(results, parts, num_workers):
            for row, reason, digest in part:
                if reason:
                    bad[row] = reason
                else:
                    good[row], known.digests[row] = True, np.frombuffer(digest, "u1")
            advance(len(part))
            if time.monotonic() - last > _KEEP_SECONDS:
                cache.keep(files.where, listing.stamps, known)
                last = time.monotonic()
    return bad


def _result(files: Files, name: bytes) -> tuple[str, bytes]:
    """Returns why a file cannot be used, "" if it can, and its digest."""
    try:
        content = files.read(name)
        images.verify(content)
    except ImageError as error:
        return str(error), b""
    return "", hashlib.sha256(content).digest()
