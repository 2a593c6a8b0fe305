"""Local copies of objects in a bucket, and their upload.

Everything reads and writes the copy. Of a workdir, its owner pushes what has changed:
whole objects, of checkpoints and models the manifest last, so that without one they do
not count. Nothing is renamed in a bucket.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from progdist import errors
from progdist.errors import Error, InputError, Interrupted
from progdist.workdir import bucket, files, layout
from progdist.workdir.bucket import Bucket, Conflict, Stored
from progdist.workdir.lease import Lease
from progdist.workdir.lock import Lock

PUSH_SECONDS = 15.0
_THREADS = 8
_READ_BYTES = 2**25  # of a file that may be held in memory
_SAID_BYTES = 2**27  # of a copy that is announced
_ATTEMPTS = 10  # at reading what another one is writing
_Filter = Callable[[str], bool]


class _State(NamedTuple):
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
        self._known: dict[str, _State] = {}
        _remove_parts(self._root)
        errors.shown_as[str(self.path)] = self.url

    def pull(self, only: _Filter = lambda name: True) -> None:
        """Makes the copy equal to the bucket, as far as names are selected.

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

    def _pull(self, only: _Filter) -> None:
        found = {n: s for n, s in self.bucket.list().items() if only(n)}
        if not found and (one := self.bucket.path and self.bucket.stored("")):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._download("", one, self.path)
        self._forget_incomplete(found)
        for name in found:
            _check_name(self.url, name)
        for name in _names(self.path) if self.path.is_dir() else ():
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


class Mirror(Copy):
    """Copy of a workdir. As a context manager it owns the workdir, and pushes.

    It takes the place of a `Lock`. In a run of several processes the first one owns it;
    the others pull.
    """

    def __init__(
        self, url: str, note: Callable[[str], None], has_checkpoints: bool = True
    ) -> None:
        """Takes the address.

        Args:
          url: the address.
          note: shows a line to the user.
          has_checkpoints: whether the copy includes the checkpoints.
        """
        super().__init__(url)
        self._has_checkpoints = has_checkpoints
        if not self.bucket.path:
            raise InputError(f"{url}: must name a folder: {self.url}/NAME")
        self._lease = Lease(self.bucket, note)
        self._incomplete: dict[str, int] = {}  # generations
        self._pushing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._push_often, daemon=True)

    def pull(self, only: _Filter = lambda name: True) -> None:
        """Makes the copy equal to the bucket; other objects are left alone."""
        super().pull(
            lambda name: name == layout.LOCK or (self._selects(name) and only(name))
        )

    def _selects(self, name: str) -> bool:
        if self._has_checkpoints:
            return layout.is_of_run(name)
        return layout.is_of_evaluation(name)

    def _forget_incomplete(self, found: dict[str, Stored]) -> None:
        before = dict(found)
        super()._forget_incomplete(found)
        gone = before.keys() - found.keys()
        self._incomplete = {name: before[name].generation for name in gone}

    def __enter__(self) -> "Mirror":
        """Owns the workdir, and makes the copy equal to it.

        Raises:
          LockError: if there is a living owner.
          InputError, BucketError, OSError: as `pull`.
        """
        self._lease.__enter__()
        try:
            self.pull()
        except BaseException:
            self._lease.__exit__()
            raise
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        is_failure = kind and not issubclass(kind, Interrupted)
        could_not_write = kind and getattr(kind, "exit_code", 0) == 4
        try:
            # After a failure, what went before is still worth having.
            with contextlib.suppress(*((Error, OSError) if is_failure else ())):
                if not could_not_write:
                    self._thread.join()
                    self.push()
        finally:
            self._lease.__exit__()

    def pull_unless_owned(self, under: str = "") -> None:
        """Pulls names that begin so, in processes that do not own the workdir."""
        if not self._thread.is_alive():
            self.pull(lambda name: name.startswith(under))

    def check(self) -> None:
        """Refuses to go on if another run has taken the workdir over.

        Raises:
          LockError: if one has.
        """
        self._lease.check()

    def push(self) -> None:
        """Makes the bucket equal to the copy.

        Raises:
          LockError: if another run has taken the workdir over.
          InputError, BucketError: if the bucket refuses or does not answer.
          OSError: if a file cannot be read.
        """
        with self._pushing:
            # Listed before anything is read: rows that precede a checkpoint are
            # written before its manifest is.
            here = self._names()
            self._upload_all(n for n in here if not layout.tree_of(n))
            for manifest in sorted(filter(layout.is_manifest, here)):
                self._upload_tree(manifest, here)
            self._delete(name for name in [*self._incomplete] if name not in here)
            self._delete(self._removed(here))

    def _names(self) -> set[str]:
        """Returns the files of the run, without incomplete checkpoints and models."""
        names = {name for name in _names(self.path) if self._selects(name)}
        return {name for name in names if layout.is_complete(name, names)}

    def _removed(self, here: set[str]) -> Iterator[str]:
        """Yields objects whose files the run has removed, and only those.

        Other files may be missing because someone has emptied the cache: checkpoints
        are removed once there is a newer one, or moved aside.
        """
        steps = [layout.step_of(name) for name in filter(layout.is_manifest, here)]
        trees = {layout.tree_of(name) for name in here}
        for name in self._known.keys() - here:
            tree = layout.tree_of(name)
            is_moved = any(other.startswith(f"{tree}.") for other in trees)
            is_old = -1 < layout.step_of(name) < max(steps, default=-1)
            is_unfinished = name.startswith(f"{layout.MEASURING}/")
            if is_unfinished or (tree and tree not in trees and (is_old or is_moved)):
                yield name

    def _delete(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=lambda name: not layout.is_manifest(name)):
            known = self._known.pop(name, None)
            generation = self._incomplete.pop(name, 0)
            self._lease.ensure()
            self.bucket.delete(name, known.stored.generation if known else generation)

    def _upload_tree(self, manifest: str, here: set[str]) -> None:
        """Uploads a checkpoint or model, its manifest last; skips one just removed."""
        tree = layout.tree_of(manifest)
        names = [n for n in here if layout.tree_of(n) == tree and n != manifest]
        with contextlib.suppress(FileNotFoundError):
            if manifest in self._known and not self._is_uploaded(manifest):
                old = {n for n in self._known if layout.tree_of(n) == tree}
                self._delete([manifest, *(old - here)])  # of the one that is replaced
            if self._upload_all(names):
                self._upload(manifest)

    def _upload_all(self, names: Iterable[str]) -> bool:
        """Uploads files that have changed; whether all of them were there."""
        return all(self._in_threads(self._upload, names))

    def _upload(self, name: str) -> bool:
        """Uploads a file if it has changed; returns whether it was there."""
        path = self.path / name
        try:
            if not self._is_uploaded(name):
                status = path.stat()
                # Rows are read at once, since they may grow.
                content = path.read_bytes() if status.st_size < _READ_BYTES else path
                stored = self._replace(name, content)
                self._known[name] = _State(stored, status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            return False
        return True

    def _is_uploaded(self, name: str) -> bool:
        """Whether a file has not changed since it was uploaded, or downloaded."""
        status, known = (self.path / name).stat(), self._known.get(name)
        return bool(known) and known[1:] == (status.st_size, status.st_mtime_ns)

    def _replace(self, name: str, content: bytes | Path) -> Stored:
        while True:
            self._lease.ensure()
            known = self._known.get(name)
            generation = known.stored.generation if known else 0
            try:
                return self.bucket.upload(name, content, generation)
            except Conflict:
                # Another owner, or a request that had succeeded and was repeated.
                self._lease.renew()
                self._lease.check()
                found = self.bucket.stored(name) or Stored(0, "", 0)
                self._known[name] = _State(found, -1, -1)

    def _push_often(self) -> None:
        while not self._stop.wait(PUSH_SECONDS):
            with contextlib.suppress(Exception):  # raised by the next save, if it lasts
                self.push()


def local(path: str | Path, only: _Filter = lambda name: True) -> Path:
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


def open_workdir(
    text: str, note: Callable[[str], None], has_checkpoints: bool = True
) -> tuple[Path | Mirror, Path]:
    """Returns a workdir, to be owned, and the path of its files, copied if need be.

    The arguments are those of `Mirror`.
    """
    if not bucket.is_url(text):
        path = files.expand(text).absolute()
        return path, path
    mirror = Mirror(text, note, has_checkpoints)
    mirror.pull()
    return mirror, mirror.path


def refresh() -> None:
    """Copies what has changed in the buckets since `local`."""
    for copy, only in _copies.values():
        copy.pull(only)


def owner_of(workdir: Path | Mirror) -> tuple[Lock | Mirror, Path]:
    """Returns what owns a workdir once it is entered, and the path of its files."""
    if isinstance(workdir, Mirror):
        return workdir, workdir.path
    return Lock(workdir), workdir


_copies: dict[str, tuple[Copy, _Filter]] = {}


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


def _names(root: Path) -> list[str]:
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
    """Removes what a killed process had downloaded in part."""
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
        raise InputError(f"{url}: holds {name!r}, which is not a path of a file")


def _state(path: Path, stored: Stored) -> Any:
    with contextlib.suppress(OSError):
        status = path.stat()
        return _State(stored, status.st_size, status.st_mtime_ns)
    return None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return -1
