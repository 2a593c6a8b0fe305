"""Downloads of files of known size, and mostly of known digest.

A file is written under a temporary name and renamed once it is complete and verified;
an error or a signal leaves nothing. With PROGDIST_MIRROR=URL, https://HOST/PATH is read
from URL/HOST/PATH.
"""

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from progdist.data.progress import counting
from progdist.errors import InputError
from progdist.workdir.files import write_whole

_MIRROR = "PROGDIST_MIRROR"
_SECONDS = 30.0
_PIECE = 1 << 20
_MAX_TEXT = 1 << 24  # bytes of an answer that is held in memory


class DownloadError(InputError):
    """A file could not be downloaded; the message names its address."""


class Remote(NamedTuple):
    """A file to download.

    Attributes:
      url: its address.
      size: its size in bytes.
      sha256, md5: its digests in hexadecimal; "" if unknown.
    """

    url: str
    size: int
    sha256: str = ""
    md5: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


def fetch(remote: Remote, path: Path) -> Path:
    """Downloads a file and verifies it; returns the path.

    Raises:
      DownloadError: if the server fails, or sends another size or digest.
      OSError: if it cannot be written; its `filename` is the path.
    """
    print(f"downloading {_address(remote.url)}", file=sys.stderr, flush=True)
    return write_whole(path, lambda file: _receive(remote, file))


def check_sha256(path: Path, expected: str, kind: type[InputError]) -> None:
    """Refuses a file with other content.

    Raises:
      InputError: of this kind, if the file is missing or has another SHA-256.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise kind(f"{path}: {error.strerror}") from None
    if digest != expected:
        raise kind(f"{path}: its SHA-256 is {digest}, expected {expected}")


def read_text(url: str) -> bytes:
    """Returns a short answer of a server.

    Raises:
      DownloadError: if there is none.
    """
    with _open(url) as answer:
        return answer.read(_MAX_TEXT)


def _receive(remote: Remote, file: BinaryIO) -> None:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    received = 0
    with counting(f"{remote.name} (MiB)", remote.size // _PIECE + 1) as advance:
        for piece in _pieces(remote):
            file.write(piece)
            sha256.update(piece)
            md5.update(piece)
            received += len(piece)
            if received > remote.size:
                break
            advance(1)
    _check(remote, "size", received, remote.size)
    _check(remote, "SHA-256", sha256.hexdigest(), remote.sha256)
    _check(remote, "MD5", md5.hexdigest(), remote.md5)


def _pieces(remote: Remote) -> Iterator[bytes]:
    with _open(remote.url) as answer:
        _check(remote, "size", answer.length or remote.size, remote.size)
        while piece := answer.read(_PIECE):
            yield piece


def _check(remote: Remote, what: str, found: object, expected: object) -> None:
    if found != expected and expected != "":
        url = _address(remote.url)
        raise DownloadError(f"{url}: its {what} is {found}, expected {expected}")


def _address(url: str) -> str:
    mirror = os.environ.get(_MIRROR, "").rstrip("/")
    return f"{mirror}/{url.partition('://')[2]}" if mirror else url


@contextlib.contextmanager
def _open(url: str) -> Iterator[http.client.HTTPResponse]:
    """Yields the answer of a server; its errors become one line."""
    url = _address(url)
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url}: must be an address of https or http")
    try:
        opener = urllib.request.build_opener(Redirects)
        with opener.open(url, timeout=_SECONDS) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        reason = " ".join(error.reason.split())
        raise DownloadError(f"{url}: HTTP {error.code} {reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url}: {reason}") from None


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the same scheme, or to https."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Returns the next request; refuses a redirect from https to http."""
        if newurl.partition(":")[0] not in (req.type, "https"):
            fp.close()
            raise DownloadError(f"{req.full_url}: redirects to {newurl}; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
