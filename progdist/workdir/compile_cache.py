"""Cache of compiled programs, shared by all runs.

JAX writes an entry in place and never replaces it. An entry half written by a killed
process would therefore fail, and be compiled again, at every start. So entries written
since the last check are checked before use.
"""

import contextlib
import zlib
from pathlib import Path

import jax

_ZLIB = b"\x78"
_STAMP = "looked_at"


def use(directory: Path) -> None:
    """Makes JAX cache compiled programs in a directory; removes broken ones first."""
    with contextlib.suppress(OSError):  # an unusable cache is not an error
        directory.mkdir(parents=True, exist_ok=True)
        remove_broken(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def remove_broken(directory: Path) -> None:
    """Removes truncated entries among those written since the last call."""
    stamp = directory / _STAMP
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    for entry in directory.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime_ns >= since and not _is_whole(entry.read_bytes()):
                entry.unlink()


def _is_whole(entry: bytes) -> bool:
    """Whether an entry can be unpacked; True for unknown formats."""
    if entry and not entry.startswith(_ZLIB):
        return True
    unpack = zlib.decompressobj()
    try:
        unpack.decompress(entry)
    except zlib.error:
        return False
    return unpack.eof
