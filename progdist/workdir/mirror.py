"""The copy of a workdir in a bucket, whose owner uploads what changes.

Objects are written whole and never renamed. The manifest of a checkpoint or model is
written last; one without a manifest does not count.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from progdist.errors import Error, InputError, Interrupted
from progdist.workdir import bucket, files, layout
from progdist.workdir.bucket import Conflict, Stored
from progdist.workdir.copies import Copy, Filter, State, names_below
from progdist.workdir.lease import Lease
from progdist.workdir.lock import Lock

PUSH_SECONDS = 15.0
_READ_BYTES = 2**25  # of a file that may be held in memory


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

    def pull(self, only: Filter = lambda name: True) -> None:
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
        """Pulls names that begin with `under`, unless this process is the owner."""
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
        names = {name for name in names_below(self.path) if self._selects(name)}
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
                self._known[name] = State(stored, status.st_size, status.st_mtime_ns)
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
                self._known[name] = State(found, -1, -1)

    def _push_often(self) -> None:
        while not self._stop.wait(PUSH_SECONDS):
            with contextlib.suppress(Exception):  # raised by the next save, if it lasts
                self.push()


def open_workdir(
    text: str, note: Callable[[str], None], has_checkpoints: bool = True
) -> Path | Mirror:
    """Returns a workdir that a run can own; copies the files of one in a bucket.

    The arguments are those of `Mirror`.
    """
    if not bucket.is_url(text):
        return files.expand(text).absolute()
    mirror = Mirror(text, note, has_checkpoints)
    mirror.pull()
    return mirror


def path_of(workdir: Path | Mirror) -> Path:
    """Returns the local path of a workdir's files."""
    return workdir.path if isinstance(workdir, Mirror) else workdir


def lock_of(workdir: Path | Mirror) -> Lock | Mirror:
    """Returns what owns a workdir once it is entered."""
    return workdir if isinstance(workdir, Mirror) else Lock(workdir)
