"""Lock of a workdir: one owner at a time.

The owner holds an exclusive lock on the file `lock`, which is released when it dies,
and touches the file every two seconds. On a file system that does not share locks
between machines, a run on another machine sees the file change. An owner that was
suspended may find its record replaced; it must check before it writes.

The variable PROGDIST_LOCK_DIR moves the file into a local directory, under a digest of
the workdir's path, as for Google Drive. Other machines are then not locked out.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from pathlib import Path

from progdist.errors import InputError, shown_as
from progdist.workdir.files import read_regular
from progdist.workdir.layout import LOCK

_TOUCH_SECONDS, _WATCH_SECONDS = 2.0, 7.0
_SILENT_SECONDS = 60.0  # other machines may see a change with a delay
_TAKEN = errno.EACCES, errno.EAGAIN


class LockError(InputError):
    """The workdir has an owner; the message names it."""


class Lock:
    """Context manager that owns a workdir."""

    def __init__(self, workdir: Path) -> None:
        """Prepares the lock of an existing directory."""
        self._workdir, self._path = workdir, _lock_path(workdir)
        self._record = b""  # as in the file; empty while not the owner
        self._released = threading.Event()

    def __enter__(self) -> "Lock":
        """Raises LockError, within ten seconds, if there is a living owner."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire()
        except LockError:
            os.close(self._file)
            raise
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self._is_owner():
            os.ftruncate(self._file, 0)
        self._record = b""
        os.close(self._file)

    def check(self) -> None:
        """Refuses to go on without the lock, if this process had acquired it.

        Raises:
          LockError: if another run has taken it over.
        """
        if self._record and not self._is_owner():
            owner = describe(owner_of(self._workdir))
            raise LockError(
                f"{self._workdir}: was taken over by {owner} while this process "
                "was suspended"
            )

    def _is_owner(self) -> bool:
        """Whether the record in the file is still ours, or cannot be read."""
        try:
            return read_regular(self._path) == self._record
        except (OSError, ValueError):
            return True

    def _acquire(self) -> None:
        owner, free = owner_of(self._workdir), _try_lock(self._file)
        # Whether the lock was granted says nothing about other machines.
        watches = owner and (free is None or owner["host"] != socket.gethostname())
        if free is False or (watches and self._is_touched()):
            raise LockError(
                f"{self._workdir}: is in use by {describe(owner)}; stop that run "
                "first, or choose another --workdir"
            )
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        self._record = json.dumps(note).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self._record, 0)
        os.fsync(self._file)

    def _is_touched(self) -> bool:
        """Whether a living owner on another machine touches the file."""
        before, end = os.fstat(self._file).st_mtime_ns, time.monotonic()
        end += _WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(0.2)
            if os.stat(self._path).st_mtime_ns != before:
                return True
        return False

    def _touch(self) -> None:
        while not self._released.wait(_TOUCH_SECONDS) and self._is_owner():
            with contextlib.suppress(OSError):
                os.utime(self._path)


class Owner:
    """Watches the owner of a workdir.

    Never acquires the lock, since that could block a run that is just starting.
    """

    def __init__(self, workdir: Path) -> None:
        """Watches a directory, which need not exist yet."""
        self._workdir, self._path = workdir, _lock_path(workdir)
        self._touched: int | None = None
        self._since = 0.0

    def is_alive(self) -> bool:
        """Whether there is an owner that may still be alive."""
        if not owner_of(self._workdir):
            return False
        with contextlib.suppress(OSError):
            touched = self._path.stat().st_mtime_ns
            if touched != self._touched:
                self._touched, self._since = touched, time.monotonic()
        return time.monotonic() - self._since < _SILENT_SECONDS


def owner_of(workdir: Path) -> dict[str, str]:
    """Returns the owner's record (pid, host, since); empty without an owner."""
    with contextlib.suppress(OSError, ValueError):
        return parse_owner(read_regular(_lock_path(workdir)))
    return {}


def parse_owner(record: bytes) -> dict[str, str]:
    """Returns the owner's record from the content of a lock; see `owner_of`."""
    try:
        fields = json.loads(record[:4096])
        return {key: str(fields[key]) for key in ("pid", "host", "since")}
    except (ValueError, KeyError, TypeError):
        return {}


def _lock_path(workdir: Path) -> Path:
    """Returns the path of the lock, in the workdir or in PROGDIST_LOCK_DIR.

    In a copy of a workdir in a bucket it is the copy of the lease's record.
    """
    directory = os.environ.get("PROGDIST_LOCK_DIR")
    if directory and str(workdir) not in shown_as:
        digest = hashlib.sha256(os.fsencode(workdir.resolve())).hexdigest()
        return Path(directory) / f"{digest[:16]}.lock"
    return workdir / LOCK


def _try_lock(file: int) -> bool | None:
    """Acquires the lock; False if it is taken, None if locks are not supported."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


def describe(owner: dict[str, str]) -> str:
    """Returns the owner in words."""
    if not owner:
        return "another run"
    return "process {pid} on {host}, since {since}".format(**owner)
