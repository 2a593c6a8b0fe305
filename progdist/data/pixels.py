"""Cache of decoded pixels: later starts read them from one file.

$XDG_CACHE_HOME/progdist/pixels holds a file for each content, shape and decoder; those
not used for longest are removed once all of them exceed `MAX_BYTES`.
"""

import contextlib
import math
from pathlib import Path

import PIL

from progdist.data.batches import in_memory
from progdist.data.source import ArraySource, Source
from progdist.workdir import array_cache

MIN_BYTES, MAX_BYTES = 1 << 24, 1 << 32  # less is decoded in half a second
_KIND = "pixels"
# Version of the decoder; incremented when a file may give other pixels.
_RULES = 1


def read(source: Source, num_workers: int) -> ArraySource:
    """Returns a source that holds all examples in memory."""
    num_bytes = len(source) * math.prod(source.image_shape)
    if isinstance(source, ArraySource) or num_bytes < MIN_BYTES:
        return in_memory(source, num_workers)
    key = {
        "rules": [_RULES, PIL.__version__],
        "content": [source.name, source.fingerprint],
        "shape": source.image_shape,
    }
    path = array_cache.path_of(_KIND, key)
    arrays = array_cache.load(_KIND, key)
    if arrays is not None:
        with contextlib.suppress(OSError):
            path.touch()
        pixels = arrays["images"], arrays["labels"], source.class_names
        return ArraySource(source.name, *pixels, source.fingerprint)
    held = in_memory(source, num_workers)
    arrays = {"images": held.images, "labels": held.labels}
    array_cache.save(_KIND, key, arrays, "images are decoded again")
    _remove_oldest(path.parent)
    return held


def _remove_oldest(directory: Path) -> None:
    """Removes files until the others fit; another process may do the same."""
    with contextlib.suppress(OSError):
        files = [(path.stat(), path) for path in directory.glob("*.npz")]
        files.sort(key=lambda file: file[0].st_mtime_ns, reverse=True)
        total = 0
        for status, path in files:
            total += status.st_size
            if total > MAX_BYTES:
                path.unlink()
