"""Cache of compiled programs, shared by all runs.

JAX writes an entry where it will be read, and leaves one that is there for ever: one
that a killed process had half written would be reported, and compiled again, at every
start. So entries that are younger than the last look are looked at first.
"""

import contextlib
import zlib
from pathlib import Path

import jax

_ZLIB = b"\x78"
_STAMP = "looked_at"


def use(directory: Path) -> None:
    """Lets JAX keep compiled programs in a directory, without the broken ones."""
    with contextlib.suppress(OSError):  # a cache that is of no use is no error
        directory.mkdir(parents=True, exist_ok=True)
        remove_broken(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def remove_broken(directory: Path) -> None:
    """Removes entries that end too early, among those written since the last call."""
    stamp = directory / _STAMP
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    stamp.touch()
    for entry in directory.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime_ns >= since and not _is_whole(entry.read_bytes()):
                entry.unlink()


def _is_whole(entry: bytes) -> bool:
    """Whether an entry can be unpacked; one packed in another way is left alone."""
    if entry and not entry.startswith(_ZLIB):
        return True
    unpack = zlib.decompressobj()
    try:
        unpack.decompress(entry)
    except zlib.error:
        return False
    return unpack.eof
