"""Copies of what lies in a bucket on the local disk, and the way back.

Everything reads and writes the copy. Of a workdir, its owner pushes what has changed:
whole objects, of checkpoints and models the manifest last, so that without one they do
not count. Nothing is renamed in a bucket.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from progdist import errors
from progdist.errors import Error, InputError, Interrupted
from progdist.workdir import bucket, files, layout
from progdist.workdir.bucket import Bucket, Conflict, Stored
from progdist.workdir.lease import Lease
from progdist.workdir.lock import Lock

PUSH_SECONDS = 15.0
_THREADS = 8
_READ_BYTES = 2**25  # of a file that may be held in memory
_ATTEMPTS = 10  # at reading what another one is writing
_Filter = Callable[[str], bool]


class _State(NamedTuple):
    """Object and file that are the same."""

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
        for name in _names(self.path):
            if name not in found and only(name):
                (self.path / name).unlink(missing_ok=True)
        _remove_empty(self.path)
        with ThreadPoolExecutor(_THREADS) as pool:
            places = ((n, s, self.path / n) for n, s in sorted(found.items()))
            for _ in pool.map(lambda place: self._download(*place), places):
                pass

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
                self.bucket.download(name, part, stored.generation)
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
            raise InputError(f"{url}: must name a folder: {url}/NAME")
        self._lease = Lease(self.bucket, note)
        self._incomplete: set[str] = set()
        self._pushing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._push_often, daemon=True)

    def pull(self, only: _Filter = lambda name: True) -> None:
        """Makes the copy equal to the bucket; other objects are left alone."""
        super().pull(
            lambda name: name == layout.LOCK or (self._selects(name) and only(name))
        )

    def _selects(self, name: str) -> bool:
        if layout.is_checkpoint(name) and not self._has_checkpoints:
            return False
        return layout.is_of_run(name)

    def _forget_incomplete(self, found: dict[str, Stored]) -> None:
        before = set(found)
        super()._forget_incomplete(found)
        self._incomplete = before - set(found)

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
        self._thread.join()
        try:
            is_failure = kind and not issubclass(kind, Interrupted)
            hidden = (Error, OSError) if is_failure else ()
            with contextlib.suppress(*hidden):
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
            # A checkpoint that replaces an older one may have come meanwhile.
            now = self._names()
            if not any(layout.is_manifest(name) for name in now - here):
                self._delete((self._known.keys() | self._incomplete) - now)

    def _names(self) -> set[str]:
        """Returns the files of the run, without incomplete checkpoints and models."""
        names = {name for name in _names(self.path) if self._selects(name)}
        return {name for name in names if layout.is_complete(name, names)}

    def _delete(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=lambda name: not layout.is_manifest(name)):
            if self._selects(name):
                self._lease.ensure()
                self.bucket.delete(name)
                self._known.pop(name, None)
                self._incomplete.discard(name)

    def _upload_tree(self, manifest: str, here: Iterable[str]) -> None:
        """Uploads a checkpoint or model, its manifest last; skips one just removed."""
        tree = layout.tree_of(manifest)
        names = [n for n in here if layout.tree_of(n) == tree and n != manifest]
        if manifest in self._known and not self._is_uploaded(manifest):
            self._delete([manifest])  # of the one that is replaced
        if self._upload_all(names):
            self._upload(manifest)

    def _upload_all(self, names: Iterable[str]) -> bool:
        """Uploads files that have changed; whether all of them were there."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return all([*pool.map(self._upload, names)])

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
    if str(path) not in _copies:
        _copies[str(path)] = Copy(str(path)), only
    copy, _ = _copies[str(path)]
    copy.pull(only)
    return copy.path


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
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    for number in itertools.count():
        root = place / f"{digest}.{number}"
        slot = os.open(f"{root}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(slot)
            continue
        return root, slot
    raise AssertionError


def _names(root: Path) -> list[str]:
    """Returns the files below a directory, without temporary ones."""
    found = []
    for directory, folders, names in os.walk(root):
        folders[:] = [f for f in folders if ".orbax-checkpoint-tmp" not in f]
        at = Path(directory).relative_to(root)
        found += [(at / n).as_posix() for n in names if not n.startswith(".")]
    return found


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
