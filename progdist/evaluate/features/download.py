"""The weight file of the FID: the user's or a download, of known SHA-256."""

import functools
import http.client
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import BinaryIO

from progdist.evaluate.features.weights import WeightsError, check_sha256
from progdist.workdir.files import cache_dir, expand, write_whole

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_SECONDS = 30.0


def inception_file(path: str = "") -> Path:
    """Returns the weight file of the FID (91 MB); downloads it if no path is passed.

    A download is kept in $XDG_CACHE_HOME/progdist/weights.

    Raises:
      WeightsError: if the file is missing, has other content, or cannot be downloaded.
    """
    file = expand(path) if path else download_path()
    if not path and not file.exists():
        _download(URL, file)
    check_sha256(file, SHA256)
    return file


def download_path() -> Path:
    """Returns the path of the download."""
    return cache_dir() / "weights" / URL.rsplit("/", 1)[-1]


def _download(url: str, path: Path) -> None:
    print(f"downloading {url}", file=sys.stderr, flush=True)
    try:
        write_whole(path, functools.partial(_fetch, url))
    except (OSError, http.client.HTTPException, WeightsError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"the FID's Inception could not be downloaded ({reason}); fetch {url} "
            "elsewhere and pass it as --inception_weights=FILE (of a run, "
            "--config.evaluation.inception_weights=FILE), or use the features "
            "squeezenet, which need no network"
        ) from None


def _fetch(url: str, file: BinaryIO) -> None:
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
        shutil.copyfileobj(answer, file)
    file.flush()
    check_sha256(Path(file.name), SHA256)
