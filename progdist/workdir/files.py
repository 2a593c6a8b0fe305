"""Atomic writes of files and directories; the cache directory."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from progdist.errors import InputError


class FormatError(InputError):
    """A malformed file; the message names it, in one line."""


def expand(path: str | Path) -> Path:
    """Returns the path with ~ replaced by the home directory.

    Raises:
      InputError: if it is empty or a URL, or there is no such home directory.
    """
    if not str(path):
        raise InputError("'': not a path")
    if re.match(r"\w+:/", str(path)):
        raise InputError(f"{path}: must be a local path")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home directory") from None


def cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME/progdist, or ~/.cache/progdist.

    Raises:
      InputError: if there is neither.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):
        return base.expanduser() / "progdist"
    raise InputError(f"XDG_CACHE_HOME: must be set, since {base} does not exist")


def read_regular(path: Path) -> bytes:
    """Returns the content of a regular file; reading a pipe could block for ever.

    Raises:
      FormatError: if it is a pipe, a device or a directory.
      OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: is not a regular file")
    return path.read_bytes()


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """Fills a temporary file and renames it to `path`; returns the path.

    A reader sees the old file or the whole new one. Creates the directory if it is
    missing.

    Raises:
      OSError: if it cannot be written; its `filename` is the path.
    """
    path = Path(path)
    # The process id, since two writers of one file must not share a temporary file.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            write(file)
        os.replace(part, path)
    except OSError as error:  # names no file, or the temporary one
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes a file as `write_whole` does."""
    return write_whole(path, lambda file: file.write(content))


def write_npz(path: str | Path, **arrays: np.ndarray) -> Path:
    """Writes named arrays, compressed, as `write_whole` does."""
    return write_whole(path, lambda file: np.savez_compressed(file, **arrays))  # pyright: ignore


@contextlib.contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Yields a directory to fill; at the end it replaces `out`, or is removed.

    Raises:
      OSError: if it cannot be filled; its `filename` is set.
    """
    prefix, parent = f".{out.name}.", out.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as parts:
            part = Path(parts) / out.name
            part.mkdir()
            yield part
            replaced = Path(parts) / "replaced"
            if out.exists():
                out.rename(replaced)
            try:
                part.rename(out)
            except OSError:
                if replaced.exists():
                    replaced.rename(out)
                raise
    except OSError as error:  # may not name the file
        where = error.filename or str(out)
        raise OSError(error.errno, error.strerror or str(error), where) from None
