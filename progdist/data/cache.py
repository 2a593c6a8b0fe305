"""Which files of a folder were found good before, so that each is tried once.

One npz file a folder, in $XDG_CACHE_HOME/progdist/folders: name, size and time of every
good file. A file that differs in any of them, or was bad, is tried again.
"""

import contextlib
import fcntl
import hashlib
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from progdist.data.listing import Listing, Names
from progdist.workdir.files import cache_dir, write_cache

# Counts up when files that were good become bad by other rules.
_RULES = 1


def recall(root: Path, listing: Listing) -> Bool[np.ndarray, " n"]:
    """Which files of the listing are known to be good."""
    known, row = _load(path_of(root)), 0
    good = np.zeros(len(listing.names), bool)
    # Both are in ascending order.
    for i, name in enumerate(listing.names):
        while row < len(known.names) and known.names[row] < name:
            row += 1
        if row == len(known.names):
            break
        good[i] = (
            known.names[row] == name
            and known.sizes[row] == listing.sizes[i]
            and known.times[row] == listing.times[i]
        )
    return good


def keep(root: Path, good: Listing) -> None:
    """Writes the good files, whole or not at all; without room for it, says so."""
    arrays = {
        "rules": np.array(_RULES),
        "text": np.frombuffer(good.names.text, np.uint8),
        "ends": good.names.ends,
        "sizes": good.sizes,
        "times": good.times,
    }
    write_cache(path_of(root), arrays, "images are tried again")


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Waits until no other process is trying the files of a folder."""
    path = path_of(root).with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a place for it there is no waiting
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("wb"))
            # The system takes a lock back when its process ends, however it does.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{root}: another process is reading it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def path_of(root: Path) -> Path:
    """Where the good files of a folder are written down."""
    key = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    return cache_dir() / "folders" / f"{key}.npz"


def _load(path: Path) -> Listing:
    """What `keep` wrote; nothing where it is damaged, or by other rules."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if arrays["rules"] != _RULES:
                return _NOTHING
            names = Names(arrays["text"].tobytes(), arrays["ends"])
            listing = Listing(names, arrays["sizes"], arrays["times"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return _NOTHING
    sound = len(names) == len(listing.sizes) == len(listing.times)
    return listing if sound else _NOTHING


_NOTHING = Listing(Names.of([]), np.zeros(0, np.int64), np.zeros(0, np.int64))
