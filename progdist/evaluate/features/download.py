"""The weight file of the FID: the user's or a download, of known SHA-256."""

from pathlib import Path

from progdist.checkpoint.weights import WeightsError
from progdist.data.download import DownloadError, Remote, check_sha256, fetch
from progdist.workdir.files import cache_dir, expand

INCEPTION = Remote(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)


def inception_file(path: str = "") -> Path:
    """Returns the weight file of the FID; downloads it if no path is passed.

    A download is kept in $XDG_CACHE_HOME/progdist/weights.

    Raises:
      WeightsError: if the file is missing, has other content, or cannot be downloaded.
    """
    file = inception_path(path)
    if not path and not file.exists():
        _download(file)
    check_sha256(file, INCEPTION.sha256, WeightsError)
    return file


def inception_path(path: str = "") -> Path:
    """Returns the user's path, or that of the download."""
    return expand(path) if path else cache_dir() / "weights" / INCEPTION.name


def _download(path: Path) -> None:
    try:
        fetch(INCEPTION, path)
    except DownloadError as error:
        raise WeightsError(
            f"the FID's Inception could not be downloaded ({error}); fetch "
            f"{INCEPTION.url} elsewhere and pass it as --inception_weights=FILE (of a "
            "run, --config.evaluation.inception_weights=FILE), or use the features "
            "squeezenet, which need no network"
        ) from None
