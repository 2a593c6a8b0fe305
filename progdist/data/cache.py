"""Cache of the image files known to be good, so that each is checked only once.

$XDG_CACHE_HOME/progdist/folders holds a set of stamps for each folder. A file is
checked again if its stamp has changed, or if it was bad.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from progdist.workdir import array_cache

Stamps = UInt64[np.ndarray, " n"]
# Version of the rules; incremented when a good file may have become a bad one.
_RULES = 3


def recall(root: Path, stamps: Stamps) -> Bool[np.ndarray, " n"]:
    """Returns which files of a folder are known to be good, as a mask."""
    arrays = array_cache.load("folders", _key(root)) or {"good": stamps[:0]}
    return np.isin(stamps, arrays["good"])


def keep(root: Path, good: Stamps) -> None:
    """Writes the stamps of the good files, or says on stderr that it failed."""
    array_cache.save("folders", _key(root), {"good": good}, "images are checked again")


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Waits until no other process checks the files of a folder."""
    path = path_of(root).with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without a lock file there is no waiting
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("wb"))
            # The system releases a lock when its process ends, however it ends.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{root}: another process is reading it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def path_of(root: Path) -> Path:
    """Returns the file with the stamps of a folder."""
    return array_cache.path_of("folders", _key(root))


def _key(root: Path) -> dict[str, Any]:
    return {"rules": _RULES, "folder": os.fspath(root.absolute())}
