"""Local copies of objects in a bucket, which everything else reads as files."""

import contextlib
import fcntl
import hashlib
import itertools
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from progdist import errors
from progdist.errors import InputError
from progdist.workdir import bucket, files, layout
from progdist.workdir.bucket import Bucket, Conflict, Stored

_THREADS = 8
_SAID_BYTES = 2**27  # of a copy that is announced
_ATTEMPTS = 10  # to read what another process is writing
Filter = Callable[[str], bool]


class State(NamedTuple):
    """An object, and size and time of the local file that equals it."""

    stored: Stored
    size: int
    mtime_ns: int


class Copy:
    """Copy of the objects below an address.

    Attributes:
      url: the address.
      path: the copy: a directory, or a file if the address is that of one object.
    """

    def __init__(self, url: str) -> None:
        """Takes a place on the local disk that no other living process uses."""
        self.bucket = Bucket(url)
        self.url = self.bucket.url
        self._root, self._slot = _claim(self.url)
        self.path = self._root / self.bucket.name / self.bucket.path
        self._known: dict[str, State] = {}
        _remove_parts(self._root)
        errors.shown_as[str(self.path)] = self.url

    def pull(self, only: Filter = lambda name: True) -> None:
        """Makes the copy equal to the bucket, for the selected names.

        Checkpoints and models without a manifest are incomplete, and left out.

        Raises:
          InputError: if the bucket may not be read, or a name is not that of a file.
          BucketError: if it does not answer.
          OSError: if a file cannot be written.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Conflict):
                return self._pull(only)
        raise InputError(f"{self.url}: changes faster than it can be read")

    def _pull(self, only: Filter) -> None:
        found = {n: s for n, s in self.bucket.list().items() if only(n)}
        if not found and (one := self.bucket.path and self.bucket.stored("")):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._download("", one, self.path)
        self._forget_incomplete(found)
        for name in found:
            _check_name(self.url, name)
        for name in names_below(self.path) if self.path.is_dir() else ():
            if name not in found and only(name):
                (self.path / name).unlink(missing_ok=True)
        _remove_empty(self.path)
        size = sum(s.size for n, s in found.items() if n not in self._known)
        if size > _SAID_BYTES:
            errors.say(f"{self.url}: copying {size / 1e9:.1f} GB\n")
        self._in_threads(lambda n: self._download(n, found[n], self.path / n), found)

    def _in_threads(self, act: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
        """Calls `act` for each name; Ctrl-C ends the requests under way."""
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                return [*pool.map(act, names)]
            except (KeyboardInterrupt, SystemExit):
                self.bucket.give_up()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _forget_incomplete(self, found: dict[str, Stored]) -> None:
        for name in [n for n in found if not layout.is_complete(n, found)]:
            del found[name]

    def _download(self, name: str, stored: Stored, path: Path) -> None:
        known = self._known.get(name)
        if known and known.stored == stored and known == _state(path, stored):
            return
        same = _size(path) == stored.size and bucket.md5_of(path) == stored.md5
        if not same:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                self.bucket.download(name, part, stored)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        self._known[name] = _state(path, stored)


def local(path: str | Path, only: Filter = lambda name: True) -> Path:
    """Returns the local path of an input; what lies in a bucket is copied first.

    Args:
      path: a path, or the address of an object or of a folder in a bucket.
      only: selects objects of the folder by name.

    Raises:
      InputError: if it is empty, or the bucket cannot be read.
      BucketError: if the bucket does not answer.
      OSError: if a file cannot be written.
    """
    if not bucket.is_url(path):
        return files.expand(path)
    url = str(path).rstrip("/")
    if url not in _copies:
        _copies[url] = Copy(url), only
    copy, _ = _copies[url]
    copy.pull(only)
    return copy.path


def refresh() -> None:
    """Copies what has changed in the buckets since `local`."""
    for copy, only in _copies.values():
        copy.pull(only)


_copies: dict[str, tuple[Copy, Filter]] = {}


def _claim(url: str) -> tuple[Path, int]:
    """Locks a directory for copies of an address until the process ends."""
    place = files.cache_dir() / "gs"
    place.mkdir(parents=True, exist_ok=True)
    # Machines may share a home directory, but not locks in it.
    digest = hashlib.sha256(f"{socket.gethostname()} {url}".encode()).hexdigest()
    for number in itertools.count():
        root = place / f"{digest[:12]}.{number}"
        slot = os.open(f"{root}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            continue
        except OSError as error:
            raise InputError(
                f"{place}: {error.strerror}; set XDG_CACHE_HOME to a local disk"
            ) from None
        return root, slot
    raise AssertionError


def names_below(root: Path) -> list[str]:
    """Returns the files below a directory, without temporary ones."""
    found = []
    for directory, folders, names in os.walk(root, onerror=_raise):
        folders[:] = [f for f in folders if ".orbax-checkpoint-tmp" not in f]
        at = Path(directory).relative_to(root)
        found += [(at / n).as_posix() for n in names if not n.startswith(".")]
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


def _remove_parts(root: Path) -> None:
    """Removes partial downloads of a killed process."""
    for directory, _, names in os.walk(root):
        for name in names:
            if name.startswith("."):
                (Path(directory) / name).unlink(missing_ok=True)


def _remove_empty(root: Path) -> None:
    for directory, _, _ in os.walk(root, topdown=False):
        if directory != str(root):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _check_name(url: str, name: str) -> None:
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or ".." in parts or "\0" in name or parts[0] == "/":
        raise InputError(f"{url}: holds {name!r}, which is not a valid file path")


def _state(path: Path, stored: Stored) -> Any:
    with contextlib.suppress(OSError):
        status = path.stat()
        return State(stored, status.st_size, status.st_mtime_ns)
    return None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return -1
