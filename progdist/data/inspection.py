"""Inspection of a folder's files, before training starts on them."""

import hashlib
import sys
import time
from typing import NamedTuple

import numpy as np

from progdist.data import cache, images
from progdist.data.cache import Known
from progdist.data.identity import Digests
from progdist.data.images import ImageError, Rules
from progdist.data.listing import Files, Listing, printable
from progdist.data.progress import counting
from progdist.data.workers import read_ahead

_FILES_AT_A_TIME = 16
_MOST_NAMED = 20
_KEEP_SECONDS = 60.0
_LEAST_OF_16_BITS = 1 << 14  # a highest value below suggests 10, 12 or 14 bits


class Inspection(NamedTuple):
    """Result of the inspection of all files.

    Attributes:
      bad: the reason why a file cannot be used, by row of the listing.
      digests: SHA-256 of the content of each good file, by row.
    """

    bad: dict[int, str]
    digests: Digests


def inspect(
    files: Files,
    listing: Listing,
    num_workers: int,
    rules: Rules = Rules(),  # noqa: B008, immutable
) -> Inspection:
    """Decodes every file not yet known to be good under the rules.

    Good files are recorded once a minute, and on an interruption. Warns of 16-bit
    images whose values use fewer bits.
    """
    listing = listing._replace(stamps=listing.stamps ^ np.uint64(rules.stamp()))
    known = cache.recall(files.where, listing.stamps)
    if known.good.all():
        return Inspection({}, known.digests)
    with cache.exclusive(files.where):
        known = cache.recall(files.where, listing.stamps)
        before = known.good.copy()
        try:
            bad = _inspect(files, listing, known, num_workers, rules)
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


class _Result(NamedTuple):
    """Why a file cannot be used, or "", its digest and what `images.verify` returns."""

    reason: str = ""
    digest: bytes = b""
    highest: int = 0


def _inspect(
    files: Files, listing: Listing, known: Known, num_workers: int, rules: Rules
) -> dict[int, str]:
    """Returns the reasons by row; adds the digests of all other rows to `known`."""
    bad, good, highest = dict[int, str](), known.good, 0

    def results(rows: list[int]) -> list[tuple[int, _Result]]:
        return [(row, _result(files, listing.names[row], rules)) for row in rows]

    rest, last = np.flatnonzero(~good).tolist(), time.monotonic()
    starts = range(0, len(rest), _FILES_AT_A_TIME)
    parts = (rest[start : start + _FILES_AT_A_TIME] for start in starts)
    with counting("trying images", len(rest)) as advance:
        for part in read_ahead(results, parts, num_workers):
            for row, result in part:
                highest = max(highest, result.highest)
                if result.reason:
                    bad[row] = result.reason
                else:
                    good[row] = True
                    known.digests[row] = np.frombuffer(result.digest, "u1")
            advance(len(part))
            if time.monotonic() - last > _KEEP_SECONDS:
                cache.keep(files.where, listing.stamps, known)
                last = time.monotonic()
    if 0 < highest < _LEAST_OF_16_BITS:
        print(
            f"{files.where}: 16-bit images: highest value found {highest}; scale the "
            "values to 0..65535, or the images will be dark",
            file=sys.stderr,
        )
    return bad


def _result(files: Files, name: bytes, rules: Rules) -> _Result:
    try:
        content = files.read(name)
        highest = images.verify(content, rules)
    except ImageError as error:
        return _Result(str(error))
    return _Result("", hashlib.sha256(content).digest(), highest)
