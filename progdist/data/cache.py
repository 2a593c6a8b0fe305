"""Cache of the files known to be good, with their digests: each is read only once.

$XDG_CACHE_HOME/progdist/files holds stamps and digests for each folder or archive. A
file is checked again if its stamp has changed, or if it was bad.
"""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt64

from progdist.data.identity import DIGEST_BYTES, Digests
from progdist.workdir import array_cache

Stamps = UInt64[np.ndarray, " n"]
# Version of the rules; incremented when a good file may have become a bad one.
_RULES = 3


class Known(NamedTuple):
    """Verdicts on files, and their digests.

    Attributes:
      good: whether each is known to be good.
      digests: SHA-256 of each good one; undefined for the others.
    """

    good: Bool[np.ndarray, " n"]
    digests: Digests


def recall(where: str, stamps: Stamps) -> Known:
    """Returns what is known of the files of a folder or archive, by their stamps."""
    nothing = {"stamps": stamps[:0], "digests": np.empty((0, DIGEST_BYTES), np.uint8)}
    arrays = array_cache.load("files", _key(where)) or nothing
    if not len(arrays["stamps"]):
        digests = np.empty((len(stamps), DIGEST_BYTES), np.uint8)
        return Known(np.zeros(len(stamps), bool), digests)
    rows = np.searchsorted(arrays["stamps"], stamps)
    rows = np.minimum(rows, len(arrays["stamps"]) - 1)
    return Known(arrays["stamps"][rows] == stamps, arrays["digests"][rows])


def keep(where: str, stamps: Stamps, known: Known) -> None:
    """Writes what is known of the good files, or says on stderr that it failed."""
    rows = np.flatnonzero(known.good)
    rows = rows[np.argsort(stamps[rows])]
    arrays = {"stamps": stamps[rows], "digests": known.digests[rows]}
    array_cache.save("files", _key(where), arrays, "files are checked again")


@contextlib.contextmanager
def exclusive(where: str) -> Iterator[None]:
    """Waits until no other process checks the files of a folder or archive."""
    path = path_of(where).with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a lock file there is no waiting
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("wb"))
            # The system releases a lock when its process ends, however it ends.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{where}: another process is reading it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def path_of(where: str) -> Path:
    """Returns the file with what is known of a folder or archive."""
    return array_cache.path_of("files", _key(where))


def _key(where: str) -> dict[str, Any]:
    return {"rules": _RULES, "files": where}
