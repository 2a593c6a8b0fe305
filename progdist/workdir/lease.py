"""Lease of a workdir in a bucket: one owner at a time.

The object `lock` holds the owner's record, which the owner writes again every
`RENEW_SECONDS`. Whoever sees it unchanged for `LEASE_SECONDS` takes it over. All writes
name the generation that they replace, so of two at once one fails; nothing is deleted.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable

from progdist.errors import Error
from progdist.workdir import bucket
from progdist.workdir.bucket import Bucket, BucketError, Conflict
from progdist.workdir.layout import LOCK
from progdist.workdir.lock import LockError, describe, parse_owner

LEASE_SECONDS, RENEW_SECONDS = 60.0, 10.0
_WATCH_SECONDS, _PATIENCE_SECONDS = 1.0, 10.0


class Lease:
    """Ownership of a workdir in a bucket, as a context manager."""

    def __init__(self, bucket: Bucket, note: Callable[[str], None]) -> None:
        """Takes the workdir's address.

        Args:
          bucket: the workdir.
          note: shows a line to the user.
        """
        self._bucket, self._note = bucket, note
        self._record, self._generation = b"", 0
        self._renewed = 0.0
        self._lost = False
        self._released = threading.Event()
        self._renewing = threading.Lock()

    def __enter__(self) -> "Lease":
        """Waits for at most `LEASE_SECONDS` if the last owner did not release it.

        Raises:
          LockError: if there is a living owner.
          InputError, BucketError: as for `Bucket`.
        """
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "token": uuid.uuid4().hex,  # since all workers may have the same names
        }
        self._record = json.dumps(note).encode()
        self._acquire()
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        with self._renewing:
            if not self._lost:
                with contextlib.suppress(Conflict, Error):
                    self._write(b"", _PATIENCE_SECONDS)

    def check(self) -> None:
        """Refuses to go on if the lease is known to be lost.

        Raises:
          LockError: if another run has taken it over.
        """
        if self._lost:
            owner = describe(parse_owner(self._bucket.read(LOCK)[0]))
            raise LockError(
                f"{self._bucket.url}: was taken over by {owner} while this process "
                "was suspended or cut off"
            )

    def ensure(self) -> None:
        """Renews the lease if it is about to run out; call it before a write.

        Raises:
          LockError: if another run has taken it over.
          BucketError: if it cannot be renewed.
        """
        end = time.monotonic() + bucket.RETRY_SECONDS
        while time.monotonic() - self._renewed > LEASE_SECONDS - 2 * RENEW_SECONDS:
            try:
                self.renew()
                break
            except BucketError:
                if time.monotonic() > end:
                    raise
        self.check()

    def renew(self) -> None:
        """Writes the record again, unless the lease is lost or released.

        Raises:
          BucketError: if that fails for ten seconds.
        """
        with self._renewing:
            if self._lost or self._released.is_set():
                return
            try:
                self._write(self._record, _PATIENCE_SECONDS)
            except Conflict:
                self._lost = True

    def _write(self, record: bytes, patience: float) -> None:
        """Replaces what this owner wrote last.

        Raises:
          Conflict: if another one wrote meanwhile.
        """
        while True:
            began = time.monotonic()
            try:
                stored = self._bucket.upload(LOCK, record, self._generation, patience)
                self._generation, self._renewed = stored.generation, began
                return
            except Conflict:
                # A request whose answer was lost may have succeeded.
                found, generation = self._bucket.read(LOCK)
                if found != self._record or generation == self._generation:
                    raise
                self._generation = generation

    def _acquire(self) -> None:
        while True:
            record, generation = self._bucket.read(LOCK)
            if record.strip() and record != self._record:
                self._watch(record, generation)
            with contextlib.suppress(Conflict):
                self._generation = generation
                return self._write(self._record, bucket.RETRY_SECONDS)

    def _watch(self, record: bytes, generation: int) -> None:
        """Returns once the owner has released the lease, or let it run out."""
        owner = describe(parse_owner(record))
        self._note(
            f"{self._bucket.url}: was in use by {owner}; waiting up to "
            f"{LEASE_SECONDS:g} seconds to see if it is alive"
        )
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(_WATCH_SECONDS, LEASE_SECONDS / 20))
            stored = self._bucket.stored(LOCK)
            if stored is None or not stored.size:
                return
            if stored.generation != generation:
                raise LockError(
                    f"{self._bucket.url}: is in use by {owner}; stop that run first, "
                    "or choose another --workdir"
                )

    def _keep(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # `check` raises what lasts
                self.renew()
