"""Each file of a folder is decoded once to be tried, and again when it changes."""

import os
import sys
import threading

import numpy as np
import pytest

from progdist.data import DataError, cache, images, inspection
from progdist.data.listing import Directory, list_images
from tests.originals import image_of
from tests.pictures import GOOD, encoded, fill, open_folder
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def tried(monkeypatch):
    """Sizes of the files that are decoded to be tried."""
    sizes, verify = [], images.verify
    monkeypatch.setattr(
        images,
        "verify",
        lambda content, *rules: sizes.append(len(content)) or verify(content, *rules),
    )
    return sizes


def test_a_good_file_is_tried_once_and_again_when_it_changes(root, tried):
    fill(root, {f"{i}.png": GOOD for i in range(5)})
    open_folder(root)
    open_folder(root)
    assert len(tried) == 5
    before = (root / "3.png").stat().st_mtime_ns
    fill(root, {"3.png": encoded(image_of(2, 5, 7)), "a.png": GOOD})
    os.utime(root / "3.png", ns=(before, before))  # another size at the same time
    os.utime(root / "4.png", ns=(0, 1))  # the same size at another time
    (root / "0.png").unlink()
    assert len(open_folder(root)) == 5
    assert len(tried) == 8
    open_folder(root)
    assert len(tried) == 8


def test_a_bad_file_is_tried_again(root, tried):
    fill(root, {"good.png": GOOD, "bad.png": GOOD[:-20]})
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.png"):
            open_folder(root)
    assert sorted(tried) == [len(GOOD) - 20] * 2 + [len(GOOD)]


def damage_half(path):
    path.write_bytes(path.read_bytes()[:-200])


def damage_bit(path):
    with np.load(path) as arrays:
        stamp = arrays["stamps"][0].tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(stamp)] ^= 1
    path.write_bytes(content)


def damage_rules(path):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "key": str(arrays["key"]).replace("rules", "no")})


def damage_rows(path):
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "stamps": arrays["stamps"][:1]})


def damage_pickle(path):
    np.savez(path, stamps=np.array([{}], object))


@pytest.mark.parametrize(
    "damage",
    [
        damage_half,
        damage_bit,
        damage_rules,
        damage_rows,
        damage_pickle,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("nonsense"),
    ],
)
def test_a_damaged_cache_is_not_trusted(root, tried, damage):
    fill(root, {f"{i}.png": GOOD for i in range(5)})
    open_folder(root)
    damage(cache.path_of(str(root)))
    open_folder(root)
    assert len(tried) == 10
    open_folder(root)
    assert len(tried) == 10


def test_without_a_place_for_the_cache_it_works_and_says_so(
    root, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fill(root, {"good.png": GOOD})
    assert len(open_folder(root)) == 1
    assert "Not a directory; files are checked again" in capsys.readouterr().err


def test_what_was_tried_is_kept_when_it_is_interrupted(root, tried, monkeypatch):
    fill(root, {f"{i:02d}.png": GOOD for i in range(40)})
    verify = images.verify

    def interrupted(content, rules):
        if len(tried) == 20:
            raise SystemExit(1)
        return verify(content, rules)

    monkeypatch.setattr(images, "verify", interrupted)
    with pytest.raises(DataError, match="a thread that reads data failed: SystemExit"):
        open_folder(root, num_workers=1)
    monkeypatch.setattr(images, "verify", verify)
    open_folder(root)
    assert len(tried) == 20 + 40 - 16  # a chunk was finished


def test_processes_do_not_try_the_same_files_at_once(root, tried, capsys):
    fill(root, {"good.png": GOOD})
    second = threading.Thread(target=open_folder, args=(root,))
    told = []

    def is_told():
        told.append(capsys.readouterr().err)
        return "another process is reading it" in "".join(told)

    with cache.exclusive(str(root)):
        second.start()
        wait_until(is_told)
        assert second.is_alive()
        assert not tried
        good = cache.Known(np.ones(1, bool), np.zeros((1, 32), np.uint8))
        cache.keep(str(root), list_images(root).stamps, good)
    second.join(60)
    assert not second.is_alive()
    assert not tried


def test_ten_thousand_files_stay_cheap(root, monkeypatch):
    first = root / "first.png"
    first.write_bytes(GOOD)
    for i in range(10_000):
        os.link(first, root / f"{i:05d}.png")
    files = Directory(root)
    listing = files.listing()
    assert len(listing.names) == 10_001
    held = sys.getsizeof(listing.names) + sum(map(sys.getsizeof, listing.names))
    assert held + listing.stamps.nbytes < 80 * 10_001
    decoded = []
    monkeypatch.setattr(
        images, "verify", lambda content, _: decoded.append(content) or 0
    )
    assert inspection.inspect(files, listing, 8).bad == {}
    assert len(decoded) == 10_001
    assert inspection.inspect(files, files.listing(), 8).bad == {}
    assert len(decoded) == 10_001
    assert cache.path_of(str(root)).stat().st_size < 50 * 10_001
