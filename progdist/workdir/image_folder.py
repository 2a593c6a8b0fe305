"""Directory of sampled images, one PNG each, which an interrupted command resumes.

request.json holds everything the images depend on, and how many were asked for.
dataset.json, written last, holds the classes, if any, in the format of EDM. Only files
of these names, and images that the request counts, are ever replaced or removed.
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from progdist.errors import UsageError
from progdist.workdir.files import write_bytes

_REQUEST, _LABELS = "request.json", "dataset.json"
_IMAGE = re.compile(r"(\d{6}|[1-9]\d{6,})\.png")
# The temporary file of an interrupted write.
_PART = re.compile(r"\.(\d{6,}\.png|request\.json|dataset\.json)\.\d+")
_LONGEST = 12  # characters of a value in a message


class ImageFolder(NamedTuple):
    """Images of one request.

    Attributes:
      path: the directory; created if missing.
      request: plain data on which every image depends.
      num: number of images asked for.
    """

    path: Path
    request: dict[str, Any]
    num: int

    def image_path(self, number: int) -> Path:
        """Returns the path of an image."""
        return self.path / f"{number:06}.png"

    def check(self, overwrite: bool) -> int:
        """Returns how many of the first images are there; 0 if to be overwritten.

        Raises:
          UsageError: if the directory holds files of others, or images of another
            request or more of them, which are not to be overwritten.
        """
        sizes = self._sizes()
        earlier = self._earlier()
        if earlier is None and any(not name.startswith(".") for name in sizes):
            raise UsageError(
                f"--out={self.path}/: is not empty and has no {_REQUEST}; choose "
                "another directory"
            )
        if earlier is None:
            return 0
        strangers = self._counted(sizes, earlier["num"], self.num)
        if strangers:
            raise UsageError(
                f"--out={self.path}/: {strangers[0]} is not an image of {_REQUEST}; "
                "choose another directory"
            )
        if overwrite:
            return 0
        changes = [
            f"{name} {_short(earlier.get(name))}, not {_short(value)}"
            for name, value in self.request.items()
            if earlier.get(name) != value
        ]
        if not changes and sizes.get(self.image_path(self.num).name):
            changes = [f"more than {self.num} images"]
        if changes:
            raise UsageError(
                f"--out={self.path}/: holds {'; '.join(changes)}; --overwrite replaces "
                "the images"
            )
        paths = map(self.image_path, range(self.num))
        return sum(1 for _ in itertools.takewhile(lambda p: sizes.get(p.name), paths))

    def begin(self, num_kept: int) -> None:
        """Removes earlier images but the first ones, and writes the request."""
        earlier = self._earlier() or {"num": 0}
        names = self._sizes()
        rest = [name for name in names if name == _LABELS or _PART.fullmatch(name)]
        for name in self._counted(names, num_kept, earlier["num"]) + rest:
            (self.path / name).unlink()
        content = json.dumps(self.request | {"num": self.num}, indent=2) + "\n"
        write_bytes(self.path / _REQUEST, content.encode())

    def finish(self, labels: Int[np.ndarray, " n"] | None) -> None:
        """Writes the class of each image, if there are any."""
        if labels is not None:
            names = (self.image_path(i).name for i in range(self.num))
            pairs = [list(pair) for pair in zip(names, labels.tolist(), strict=True)]
            content = json.dumps({"labels": pairs}) + "\n"
            write_bytes(self.path / _LABELS, content.encode())

    def _counted(self, names: Iterable[str], first: int, end: int) -> list[str]:
        """Returns the names of the images first … end - 1 that are there."""
        matches = filter(None, map(_IMAGE.fullmatch, names))
        return sorted(m[0] for m in matches if first <= int(m[1]) < end)

    def _sizes(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            return {e.name: e.stat(follow_symlinks=False).st_size for e in entries}
        return {}

    def _earlier(self) -> dict[str, Any] | None:
        """Returns the request in the directory, if there is one."""
        path = self.path / _REQUEST
        try:
            earlier = json.loads(path.read_bytes())
            if isinstance(earlier["num"], int):
                return earlier
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            pass
        raise UsageError(f"{path}: not a request for images; choose another directory")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
