"""Where what can be made again is kept, from run to run."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME/progdist, or ~/.cache/progdist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "progdist"
