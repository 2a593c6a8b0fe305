"""Where what can be made again is kept, from run to run."""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np


def cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME/progdist, or ~/.cache/progdist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "progdist"


def keep_arrays(path: Path, arrays: dict[str, np.ndarray], otherwise: str) -> None:
    """Writes an npz file, whole or not at all; without room for it, says so.

    Args:
      path: below `cache_dir`.
      arrays: by name.
      otherwise: what follows where they could not be kept, for the message.
    """
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        print(f"{path}: {error.strerror}; {otherwise}", file=sys.stderr)
