"""Where the FID's weights are: the user's file, or a download of a known content."""

import contextlib
import http.client
import os
import shutil
import sys
import urllib.request
from pathlib import Path

from progdist.evaluate.features.weights import WeightsError, check_sha256
from progdist.workdir.files import cache_dir

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_SECONDS = 30.0


def inception_file(given: str = "") -> Path:
    """Returns the file of the FID's weights, 91 MB; downloads it where none is given.

    The download is kept in $XDG_CACHE_HOME/progdist/weights.

    Raises:
      WeightsError: if there is no such file, none can be had, or it is another.
    """
    path = Path(given).expanduser() if given else kept_file()
    if not given and not path.exists():
        _download(URL, path)
    check_sha256(path, SHA256)
    return path


def kept_file() -> Path:
    """Where a download is kept."""
    return cache_dir() / "weights" / URL.rsplit("/", 1)[-1]


def _download(url: str, path: Path) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    print(f"downloading {url}", file=sys.stderr, flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = urllib.request.urlopen(url, timeout=_SECONDS)
        with answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
        check_sha256(part, SHA256)
        os.replace(part, path)
    except (OSError, http.client.HTTPException, WeightsError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(
            f"the FID's Inception could not be downloaded ({reason}); fetch {url} "
            "elsewhere and give it as --inception_weights=FILE, or take "
            "--features=squeezenet, which needs no network"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
