"""Downloads: what a server may do wrong, and CIFAR-10 from its original archive."""

import contextlib
import hashlib
import io
import tarfile

import numpy as np
import pytest

from progdist import data
from progdist.data import cifar10, download
from progdist.data.download import DownloadError, Remote, fetch
from tests import originals
from tests.server import serving

CONTENT = bytes(range(256)) * 9000  # more than one piece
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = Remote("https://host.org/file", len(CONTENT), sha256=SHA256)
PATH = "/host.org/file"


@pytest.fixture
def site(monkeypatch):
    """A mirror with the file."""
    with serving() as server:
        monkeypatch.setenv("PROGDIST_MIRROR", f"{server.url}/")
        server.put(PATH, CONTENT)
        yield server


def test_a_download_is_the_file(site, tmp_path):
    path = fetch(FILE, tmp_path / "folder" / "file")
    assert path.read_bytes() == CONTENT
    assert site.requests == [PATH]
    assert [p.name for p in path.parent.iterdir()] == ["file"]


FAULTS = {
    "missing": ({"body": b"", "status": 404}, "HTTP 404 Not Found"),
    "broken": ({"body": b"", "status": 500}, "HTTP 500 Internal Server Error"),
    "cut short": (
        {"body": CONTENT[:-9], "Content_Length": len(CONTENT)},
        f"its size is {len(CONTENT) - 9}, expected {len(CONTENT)}",
    ),
    "announced too small": ({"body": CONTENT, "Content_Length": 9}, "its size is 9, "),
    "announced too large": (
        {"body": CONTENT, "Content_Length": 10**12},
        f"its size is {10**12}, ",
    ),
    "empty": ({"body": b""}, "its size is 0, "),
    "without an end": (
        {"body": CONTENT * 9, "Content_Length": None},
        f"its size is {3 << 20}, expected {len(CONTENT)}",
    ),
    "another": ({"body": CONTENT[::-1]}, f"its SHA-256 is .*, expected {SHA256}"),
    "a local file": (
        {"body": b"", "status": 302, "Location": "file:///etc/passwd"},
        "HTTP 302 .*'file:///etc/passwd' is not allowed",
    ),
    "of another scheme": (
        {"body": b"", "status": 301, "Location": "ftp://host.org/file"},
        "redirects to ftp://host.org/file; not followed",
    ),
    "in a circle": ({"body": b"", "status": 302, "Location": PATH}, "HTTP 302 "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_nothing(fault, site, tmp_path):
    answer, message = FAULTS[fault]
    site.put(PATH, **answer)
    with pytest.raises(DownloadError, match=f"^{site.url}{PATH}: {message}") as error:
        fetch(FILE, tmp_path / "file")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(error, site, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def counting(title, total):
        def advance(count):
            raise error

        yield advance

    monkeypatch.setattr(download, "counting", counting)
    with pytest.raises(error):
        fetch(FILE, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_download_keeps_the_file_that_is_there_unless_it_succeeds(site, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    site.put(PATH, CONTENT[::-1])
    with pytest.raises(DownloadError):
        fetch(FILE, path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9/host.org/file: .*refused"),
        ("file:///tmp", "file:///tmp/host.org/file: must be an address of https or "),
    ],
)
def test_a_mirror_that_does_not_answer(mirror, message, tmp_path, monkeypatch):
    monkeypatch.setenv("PROGDIST_MIRROR", mirror)
    with pytest.raises(DownloadError, match=message):
        fetch(FILE, tmp_path / "file")


def test_an_answer_to_https_may_not_redirect_to_http():
    request = download.urllib.request.Request("https://host.org/file")
    handler = download.Redirects()
    target = "http://host.org/file"
    with pytest.raises(DownloadError, match=f"redirects to {target}"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, target)


# --- CIFAR-10


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The archive in small, whose digest counts as the published one."""
    path = tmp_path / "archive" / cifar10.ARCHIVE.name
    path.parent.mkdir()
    originals.write_cifar10(path)
    publish(path, monkeypatch)
    return path


def publish(path, monkeypatch):
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    remote = Remote(cifar10.ARCHIVE.url, len(content), digest)
    monkeypatch.setattr(cifar10, "ARCHIVE", remote)


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("test", 2)])
@pytest.mark.parametrize("is_file", [True, False])
def test_the_images_of_cifar10(split, count, is_file, archive):
    dir = archive if is_file else archive.parent
    source = data.open_source("cifar10", split, str(dir), image_shape=(32, 32, 3))
    image, label = source.take(np.arange(len(source)))
    assert label.tolist() == list(range(count))
    for i in range(count):
        np.testing.assert_array_equal(image[i], originals.image_of(i, 32, 32))
    assert (source.class_names[3], source.num_classes) == ("cat", 10)


def test_cifar10_is_downloaded_once(archive, site, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = "/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    site.put(path, archive.read_bytes())
    one, other = (data.open_source("cifar10") for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert site.requests == [path]


def test_another_archive_is_refused(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(data.DataError, match=f"{archive}: its SHA-256 is"):
        data.open_source("cifar10", dir=str(archive))
    with pytest.raises(data.DataError, match=r"cifar-10-binary.tar.gz: No such file"):
        data.open_source("cifar10", dir=str(tmp_path))
    with pytest.raises(data.DataError, match="the splits train and test, not 'val'"):
        data.open_source("cifar10", "val", str(archive))


def test_nothing_is_extracted_from_the_archive(archive, tmp_path, monkeypatch):
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../stray", f"{tmp_path}/stray"):
            member = tarfile.TarInfo(name)
            tar.addfile(member)
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    publish(archive, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert len(data.open_source("cifar10", dir=str(archive))) == 10
    assert [path.name for path in tmp_path.rglob("*")] == ["archive", archive.name]
