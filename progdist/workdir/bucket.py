"""Objects of a Google Cloud Storage bucket, by Google's client.

Requests that fail for a temporary reason are retried for `RETRY_SECONDS`. Uploads name
the generation that they replace, so that two writers never overwrite each other.
"""

import base64
import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import Error, InputError, reason_of, say

SCHEME = "gs://"
RETRY_SECONDS = 600.0
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/+(.*?))?/*", re.DOTALL)
_REQUEST_SECONDS = 60.0  # without an answer
_LASTS_SECONDS, _SAYS_SECONDS = 10.0, 60.0
_PIECE_BYTES = 2**26  # of a download
_ATTEMPTS = 3  # at a transfer that the client lost track of


class BucketError(Error):
    """A bucket does not answer; nothing could be written to it."""

    exit_code = 4


class Conflict(Exception):
    """An object is gone, or another writer has replaced it."""


class Stored(NamedTuple):
    """An object: its size in bytes, MD5 in hexadecimal, and generation."""

    size: int
    md5: str
    generation: int


class Bucket:
    """The objects below gs://BUCKET/PATH, by their names from there on.

    All methods raise InputError if the bucket does not exist or may not be accessed,
    and BucketError if it does not answer.
    """

    def __init__(self, url: str) -> None:
        """Takes the address.

        Raises:
          InputError: if it is malformed, or the client or its credentials are missing.
        """
        match = _URL.fullmatch(url)
        self.name, self.path = (match[1], match[2] or "") if match else ("", "")
        if not match or (self.path and {"", ".", ".."} & {*self.path.split("/")}):
            raise InputError(f"{url}: must look like gs://BUCKET/PATH")
        self.url = url.rstrip("/")
        self._client = _client(url)
        self._bucket = self._client.bucket(self.name)
        self._gives_up = False
        # Times of the first and last failure in a row, and of the last message.
        self._failing = 0.0, 0.0, -_SAYS_SECONDS

    def give_up(self) -> None:
        """Stops retrying requests, including those under way."""
        self._gives_up = True

    def list(self) -> dict[str, Stored]:
        """Returns the objects below the address."""
        prefix = f"{self.path}/" if self.path else ""
        fields = "items(name,size,md5Hash,generation),nextPageToken"
        with self._explained():
            found = self._client.list_blobs(
                self._bucket, prefix=prefix, fields=fields, **self._options()
            )
            return {
                blob.name.removeprefix(prefix): _stored(blob)
                for blob in found
                if not blob.name.endswith("/")  # stands for a folder
            }

    def stored(self, name: str) -> Stored | None:
        """Returns an object's size, MD5 and generation; None without an object.

        The name "" is that of the object at the address itself.
        """
        with self._explained():
            blob = self._bucket.get_blob(self._name(name), **self._options())
        return _stored(blob) if blob else None

    def read(self, name: str) -> tuple[bytes, int]:
        """Returns an object's content and generation; b"" and 0 without an object."""
        while found := self.stored(name):
            with contextlib.suppress(Conflict), self._explained():
                blob, match = self._blob(name), {"if_generation_match": found[2]}
                content = blob.download_as_bytes(**match, **self._options())
                return content, found.generation
        return b"", 0

    def download(self, name: str, path: Path, stored: Stored) -> None:
        """Writes an object's content to a file, in pieces; compares its MD5.

        Raises:
          Conflict: if the object has another generation, or is gone.
          OSError: if the file cannot be written.
        """
        blob, match = self._blob(name), {"if_generation_match": stored.generation}
        if stored.size > _PIECE_BYTES:
            blob.chunk_size = _PIECE_BYTES
        try:
            self._transfer(
                lambda: blob.download_to_filename(str(path), **match, **self._options())
            )
        except OSError as error:
            where = error.filename or str(path)
            raise OSError(error.errno, error.strerror, where) from None
        if stored.md5 and md5_of(path) != stored.md5:
            raise Conflict(self.url)

    def upload(
        self,
        name: str,
        content: bytes | Path,
        generation: int,
        patience: float | None = None,
    ) -> Stored:
        """Creates or replaces an object, whole.

        Args:
          name: name of the object.
          content: its content, or a file that holds it.
          generation: generation that is replaced; 0 for none.
          patience: seconds for which to repeat it; `RETRY_SECONDS` if None.

        Raises:
          Conflict: if the object has another generation.
          OSError: if the file cannot be read.
        """
        blob, match = self._blob(name), {"if_generation_match": generation}
        options = match | self._options(patience)
        if isinstance(content, bytes):
            self._transfer(lambda: blob.upload_from_string(content, **options))
        else:
            self._transfer(lambda: blob.upload_from_filename(str(content), **options))
        return _stored(blob)

    def delete(self, name: str, generation: int) -> None:
        """Deletes an object, unless it is gone or has another generation."""
        match = {"if_generation_match": generation}
        with contextlib.suppress(Conflict), self._explained():
            self._blob(name).delete(**match, **self._options())

    def _name(self, name: str) -> str:
        return "/".join(part for part in (self.path, name) if part)

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._name(name))

    def _transfer(self, act: Callable[[], object]) -> None:
        """Uploads or downloads; starts over if the client lost track."""
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        for attempt in range(_ATTEMPTS):
            try:
                with self._explained():
                    act()
                return
            except (DataCorruption, InvalidResponse, ValueError) as error:
                if isinstance(error, Error):
                    raise
                if attempt + 1 == _ATTEMPTS:
                    raise self._no_answer(error) from None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the client into those of this program."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from requests import RequestException

        try:
            yield
        except (GoogleAPIError, GoogleAuthError) as error:
            raise self._explanation(error) from None
        except (RequestException, ConnectionError, TimeoutError) as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: Exception) -> BucketError:
        return BucketError(f"{self.url}: no answer ({reason_of(error)})")

    def _explanation(self, error: Exception) -> Exception:
        """Returns the error of this program for one of the client."""
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        match error:
            case exceptions.NotFound() if not self._exists():
                return InputError(f"{self.url}: there is no such bucket")
            case exceptions.NotFound() | exceptions.PreconditionFailed():
                return Conflict(self.url)
            case exceptions.Unauthorized() | exceptions.Forbidden():
                reason = f"access is refused ({reason_of(error)})"
            case exceptions.BadRequest():
                reason = reason_of(error)
            case GoogleAuthError():
                reason = f"{_LOG_IN} ({reason_of(error)})"
            case _:
                return self._no_answer(error)
        return InputError(f"{self.url}: {reason}")

    def _exists(self) -> bool:
        """Whether the bucket exists; True if that cannot be known."""
        from google.api_core import exceptions

        try:
            return self._bucket.exists(**self._options())
        except exceptions.GoogleAPIError:
            return True

    def _options(self, patience: float | None = None) -> dict[str, Any]:
        """Returns how long to wait for an answer, and when to repeat a request."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        seconds = RETRY_SECONDS if patience is None else patience
        retry = (
            DEFAULT_RETRY.with_predicate(self._is_passing)
            .with_timeout(seconds)
            .with_delay(0.5, 30.0, 2.0)
        )
        return {"retry": retry, "timeout": min(_REQUEST_SECONDS, seconds)}

    def _is_passing(self, error: Exception) -> bool:
        """Whether a request is worth repeating after an error."""
        from google.auth.exceptions import RefreshError, TransportError
        from google.cloud.storage.retry import DEFAULT_RETRY

        if isinstance(error, RefreshError) and error.args:
            error = error.args[0]  # of the metadata server, perhaps
        if self._gives_up or not (
            isinstance(error, TransportError) or DEFAULT_RETRY._predicate(error)
        ):
            return False
        self._say_if_it_lasts(error)
        return True

    def _say_if_it_lasts(self, error: Exception) -> None:
        """Says, every minute, that requests have failed for ten seconds."""
        now, (since, last, said) = time.monotonic(), self._failing
        if now - last > _SAYS_SECONDS:
            since = now
        if now - since > _LASTS_SECONDS and now - said > _SAYS_SECONDS:
            said = now
            say(f"{self.url}: no answer yet ({reason_of(error)})\n")
        self._failing = since, now, said


_LOG_IN = "no credentials; run gcloud auth application-default login"


@functools.cache
def _client(url: str) -> Any:
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage
    except ImportError:
        raise InputError(
            f"{url}: needs google-cloud-storage; pip install 'progdist[gcs]'"
        ) from None
    # In a new pod of GKE the metadata server answers some seconds late.
    attempts = 10 if "KUBERNETES_SERVICE_HOST" in os.environ else 1
    while True:
        try:
            return storage.Client(project=None)
        except GoogleAuthError as error:
            attempts -= 1
            if not attempts:
                reason = f"{_LOG_IN} ({reason_of(error)})"
                raise InputError(f"{url}: {reason}") from None
            time.sleep(3)


def _stored(blob: Any) -> Stored:
    md5 = base64.b64decode(blob.md5_hash or "").hex()  # none of a composed object
    return Stored(int(blob.size or 0), md5, int(blob.generation))


def md5_of(path: Path) -> str:
    """Returns the MD5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, functools.partial(hashlib.md5, usedforsecurity=False)
        ).hexdigest()


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether the text is the address of something in a bucket."""
    return str(path).startswith(SCHEME)
