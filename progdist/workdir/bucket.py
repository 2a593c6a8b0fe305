"""Objects of a Google Cloud Storage bucket, by Google's client.

Requests that fail for a passing reason are repeated for `RETRY_SECONDS`. Uploads name
the generation that they replace, so that two writers never overwrite each other.
"""

import base64
import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import Error, InputError, reason_of

SCHEME = "gs://"
RETRY_SECONDS = 600.0
_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/+(.*?))?/*", re.DOTALL)
_REQUEST_SECONDS = 60.0  # without an answer


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
        if not match:
            raise InputError(f"{url}: must look like gs://BUCKET/PATH")
        self.url = url.rstrip("/")
        self.name, self.path = match[1], match[2] or ""
        self._client = _client(url)
        self._bucket = self._client.bucket(self.name)

    def list(self) -> dict[str, Stored]:
        """Returns the objects below the address."""
        prefix = f"{self.path}/" if self.path else ""
        fields = "items(name,size,md5Hash,generation),nextPageToken"
        with self._explained():
            found = self._client.list_blobs(
                self._bucket, prefix=prefix, fields=fields, **_options()
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
            blob = self._bucket.get_blob(self._name(name), **_options())
        return _stored(blob) if blob else None

    def read(self, name: str) -> tuple[bytes, int]:
        """Returns an object's content and generation; b"" and 0 without an object."""
        while found := self.stored(name):
            with contextlib.suppress(Conflict), self._explained():
                blob, match = self._blob(name), {"if_generation_match": found[2]}
                content = blob.download_as_bytes(**match, **_options())
                return content, found.generation
        return b"", 0

    def download(self, name: str, path: Path, generation: int) -> None:
        """Writes an object's content to a file; the client compares a checksum.

        Raises:
          Conflict: if the object has another generation, or is gone.
          OSError: if the file cannot be written.
        """
        match = {"if_generation_match": generation}
        with self._explained():
            self._blob(name).download_to_filename(str(path), **match, **_options())

    def upload(self, name: str, content: bytes | Path, generation: int) -> Stored:
        """Creates or replaces an object, whole.

        Args:
          name: name of the object.
          content: its content, or a file that holds it.
          generation: generation that is replaced; 0 for none.

        Raises:
          Conflict: if the object has another generation.
          OSError: if the file cannot be read.
        """
        blob, match = self._blob(name), {"if_generation_match": generation}
        with self._explained():
            if isinstance(content, bytes):
                blob.upload_from_string(content, **match, **_options())
            else:
                blob.upload_from_filename(str(content), **match, **_options())
        return _stored(blob)

    def delete(self, name: str) -> None:
        """Deletes an object, if it exists."""
        with contextlib.suppress(Conflict), self._explained():
            self._blob(name).delete(**_options())

    def _name(self, name: str) -> str:
        return "/".join(part for part in (self.path, name) if part)

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._name(name))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the client into those of this program."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (GoogleAPIError, GoogleAuthError) as error:
            raise self._explanation(error) from None
        except OSError as error:
            if error.filename is not None:  # of a local file
                raise
            raise BucketError(f"{self.url}: no answer ({reason_of(error)})") from None

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
                return BucketError(f"{self.url}: no answer ({reason_of(error)})")
        return InputError(f"{self.url}: {reason}")

    def _exists(self) -> bool:
        """Whether the bucket exists; True if that cannot be known."""
        from google.api_core import exceptions

        try:
            return self._bucket.exists(**_options())
        except exceptions.GoogleAPIError:
            return True


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
    try:
        return storage.Client(project=None)
    except GoogleAuthError as error:
        raise InputError(f"{url}: {_LOG_IN} ({reason_of(error)})") from None


def _options() -> dict[str, Any]:
    """Returns how long to wait for an answer, and when to repeat a request."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(0.5, 30.0, 2.0)
    return {"retry": retry, "timeout": _REQUEST_SECONDS}


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
