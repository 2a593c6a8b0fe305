"""Identity of data: digests of what it contains, wherever it is stored.

The digest of a file is remembered under a stamp of its name, size, times and inode, and
computed again where that differs. The time of a status change cannot be set, so that a
file replaced under its old size and time is noticed.
"""

import hashlib
import os

import numpy as np
from jaxtyping import UInt8

# Prefix of all fingerprints; incremented when the same data gets another one.
VERSION = "1:"
DIGEST_BYTES = 32
Digests = UInt8[np.ndarray, "n 32"]


def fingerprint(*parts: bytes | np.ndarray) -> str:
    """Returns the fingerprint of data that consists of these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(b"%d " % len(part))
            digest.update(part)
    return VERSION + digest.hexdigest()


def text(names: tuple[str, ...]) -> bytes:
    """Returns names, which cannot hold a NUL, as a part of a fingerprint."""
    return "\0".join(names).encode("utf-8", "surrogateescape")


def stamp(name: bytes, status: os.stat_result) -> int:
    """Returns a number of 64 bits that differs once the file has been written to."""
    words = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return short_digest(b"%s\0%d %d %d %d" % (name, *words))


def short_digest(content: bytes) -> int:
    """Returns a digest of 64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
