"""Splits and classes of a folder, an archive or a file: what is read, what refused."""

import json
import struct
import zipfile

import numpy as np
import pytest

from progdist import main
from progdist.data import DataError, batches, open_source, sources
from tests.commands import answer
from tests.originals import image_of
from tests.pictures import GOOD, SHAPE, encoded, fill, open_folder

pytestmark = pytest.mark.usefixtures("own_cache")


def picture(number):
    return encoded(image_of(number, 4, 6))


def numbered(*names):
    """Files whose pixels are those of their number."""
    return {name: picture(number) for number, name in enumerate(names)}


def labels_of(source):
    """Returns the label of each picture of `numbered`, by number."""
    image, label = source.take(np.arange(len(source)))
    found = {i.tobytes(): int(n) for i, n in zip(image, label, strict=True)}
    return [found[image_of(i, 4, 6).tobytes()] for i in range(len(source))]


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def dataset_json(*entries):
    return {"dataset.json": json.dumps({"labels": entries or None}).encode()}


@pytest.fixture
def refusal(capsys, monkeypatch, tmp_path):
    """The line with which a run on a folder, or other data, is refused."""

    def refuse(dir, *flags, name="folder"):
        workdir = tmp_path / "w"
        flags = [
            "--config=configs/digits.py:smoke",
            f"--workdir={workdir}",
            f"--config.data.name={name}",
            f"--config.data.dir={dir}",
            *flags,
        ]
        capsys.readouterr()
        code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
        assert (code, error.count("\n")) == (2, 1)
        assert not workdir.exists()
        return error

    return refuse


# --- splits


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("train", "Training"),
        ("training", "train"),
        ("val", "dev"),
        ("validation", "valid"),
        ("Val", "VALIDATION"),
        ("dev", "val"),
        ("test", "testing"),
        ("testing", "Test"),
    ],
)
def test_a_split_has_many_names(root, split, name):
    fill(root, {f"{name}/1.png": picture(0), "notes.txt": b"", ".git/1.png": b""})
    for by_product in ("__MACOSX", "lost+found", "@eaDir"):
        fill(root, {f"{by_product}/1.png": b"", f"{name}/{by_product}/2.png": b""})
    other = "train" if split.lower().startswith("t") and "s" in split else "test"
    fill(root, {f"{other}/{i}.png": GOOD for i in range(3)})
    assert labels_of(open_folder(root, split=split)) == [0]
    packed = {p.relative_to(root).as_posix(): p.read_bytes() for p in files_in(root)}
    archive = write_zip(root.with_suffix(".zip"), packed)
    assert labels_of(open_folder(archive, split=split)) == [0]


def files_in(root):
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("packed", [False, True])
def test_splits_and_labels_may_lie_in_one_more_directory(root, packed):
    files = {"set/train/a/1.png": picture(0), "set/train/b/1.png": picture(1)}
    files |= {"set/val/a/1.png": picture(0), "readme.txt": b""}
    other = {f"set/{name}": c for name, c in dataset_json(["1.png", 7]).items()}
    other |= {"set/1.png": picture(0), "set/readme.txt": b""}
    if packed:
        one, two = (write_zip(root / f"{len(f)}.zip", f) for f in (files, other))
    else:
        one, two = fill(root / "one", files), fill(root / "two", other)
    assert labels_of(open_folder(one)) == [0, 1]
    assert len(open_folder(one, split="validation")) == 1
    assert labels_of(open_folder(two)) == [7]
    three = fill(root / "three", {"a/1.png": GOOD, "readme.txt": b""})
    assert open_folder(three).class_names == ("a",)


@pytest.mark.parametrize(
    "stray", ["tram/1.png", "extra/notes.txt", "stray.png", "dataset.json"]
)
def test_what_lies_beside_the_splits_is_named(root, refusal, stray):
    fill(root, {"train/1.png": GOOD, "test/1.png": GOOD, stray: GOOD})
    name = stray.partition("/")[0]
    says = f"{root}: {name} lies beside the splits test, train; move it away"
    assert says in refusal(root)


def test_a_split_that_is_missing_or_there_twice_is_named(root, refusal):
    assert "No such file" in refusal(root / "nowhere")
    fill(root, {"1.png": GOOD})
    says = "has no split 'test'; it has train, the whole folder"
    assert says in refusal(root, "--config.data.split=test")
    (root / "1.png").unlink()
    fill(root, {"train/1.png": GOOD, "val/1.png": GOOD, "Valid/1.png": GOOD})
    says = "has no split 'test'; it has Valid, train, val"
    assert says in refusal(root, "--config.data.split=test")
    says = "Valid and val are one split; keep one of them"
    assert says in refusal(root, "--config.data.split=dev")
    says = "has no split 'x'; it has Valid, train, val"
    assert says in refusal(root, "--config.data.split=x")


# --- classes by directory


def test_classes_are_numbered_in_the_natural_order_of_their_names(root):
    names = ["2", "10", "1a", "a9", "a10", "b", "02"]
    fill(root, numbered(*(f"{name}/1.png" for name in names)))
    source = open_folder(root)
    assert source.class_names == ("1a", "02", "2", "10", "a9", "a10", "b")
    assert labels_of(source) == [source.class_names.index(name) for name in names]


def test_chunks_are_classes_only_if_that_is_said(root, refusal):
    fill(root, numbered("00000/1.png", "00001/2.png"))
    assert open_folder(root).class_names == ()
    assert labels_of(open_folder(root, labels="folders")) == [0, 1]
    says = f"must be 0, since {root} has no labels: 00000 is a chunk, unless data.lab"
    assert says in refusal(root, "--config.net.num_classes=2")
    fill(root, {"000002/1.png": GOOD})  # of another length: these are names
    assert open_folder(root).num_classes == 3


def test_labels_can_be_left_out(root, refusal):
    fill(root, numbered("a/1.png", "b/2.png") | {"dataset.json": b"nonsense"})
    assert open_folder(root, labels="none").class_names == ()
    assert open_folder(root, labels="folders").class_names == ("a", "b")
    flags = "--config.data.labels=none", "--config.net.num_classes=2"
    assert "has no labels: data.labels='none'" in refusal(root, *flags)
    assert "is not one of auto, folders, none" in refusal(
        root, "--config.data.labels=some"
    )


@pytest.mark.parametrize("name", ["loose.png", "b/deep/er.png"])
def test_an_image_outside_the_classes_is_named_where_they_are_needed(
    root, refusal, name
):
    fill(root, {"a/1.png": GOOD, "b/1.png": GOOD, name: GOOD})
    assert open_folder(root).num_classes == 0
    says = f"no labels: {name} is not in a directory of its class"
    assert says in refusal(root, "--config.net.num_classes=2")
    assert name in refusal(root, "--config.data.labels=folders")


@pytest.mark.parametrize("file", ["b/notes.txt", "b/.hidden.png", "b/@eaDir/1.png"])
def test_a_class_without_images_is_named_where_classes_are_needed(root, refusal, file):
    fill(root, {"a/1.png": GOOD, "c/1.png": GOOD, file: b""})
    assert open_folder(root).class_names == ("a", "b", "c")
    says = "num_classes=3: must be 0, since the data has no image of class 'b'"
    assert says in refusal(root, "--config.net.num_classes=3")
    says = "num_classes=2: must be 0 or 3, the number of classes of the data"
    assert says in refusal(root, "--config.net.num_classes=2")


# --- classes by dataset.json


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_an_archive_may_have_its_labels_in_a_file(root, packed):
    names = ["00000/img0.png", "00000/img1.png", "00001/img2.png", "img3.png"]
    labels = [2, 0, 1, 0]
    entries = map(list, zip(names, labels, strict=True))
    files = numbered(*names) | dataset_json(*entries)
    if packed:
        root = write_zip(root / "images.ZIP", files)
    else:
        fill(root, files)
    source = open_folder(root)
    assert source.class_names == ("0", "1", "2")
    assert labels_of(source) == labels


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'must be {"labels": [[NAME, CLASS], …]}'),
        (b"{}", 'must be {"labels": [[NAME, CLASS], …]}'),
        (b'{"labels": {"1.png": 0}}', "must be"),
        (b'{"labels": [["1.png", 0]]}', "lacks the image 2.png"),
        (b'{"labels": [["1.png", 0], ["2.png", 0], ["x.png", 0]]}', "names x.png, whi"),
        (b'{"labels": [["1.png", 0], ["1.png", 0]]}', "names 1.png twice"),
        (b'{"labels": [["1.png", -1]]}', "['1.png', -1] is not [NAME, CLASS]"),
        (b'{"labels": [["1.png", 1.0]]}', "['1.png', 1.0] is not"),
        (b'{"labels": [["1.png", NaN]]}', "['1.png', nan] is not"),
        (b'{"labels": [["1.png", true]]}', "['1.png', True] is not"),
        (b'{"labels": [["1.png", 99999999999]]}', "99999999999] is not"),
        (b'{"labels": [["1.png", [0, 1]]]}', "['1.png', [0, 1]] is not"),
        (b'{"labels": ["1.png"]}', "'1.png' is not"),
        (b'{"labels": [["\\ud800\\n", 0.5]]}', "is not [NAME, CLASS]"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name(root, refusal, content, says):
    fill(root, {"1.png": GOOD, "2.png": GOOD, "dataset.json": content})
    error = refusal(root)
    assert f"{root}/dataset.json: " in error
    assert says in error


def test_classes_that_the_labels_leave_out_are_named_where_they_are_needed(
    root, refusal
):
    fill(
        root, {"1.png": GOOD, "2.png": GOOD} | dataset_json(["1.png", 3], ["2.png", 0])
    )
    assert open_folder(root).num_classes == 4
    says = "must be 0, since the data has no image of class '1' and 1 others"
    assert says in refusal(root, "--config.net.num_classes=4")
    fill(root, dataset_json())
    assert open_folder(root).num_classes == 0
    says = "has no labels: " + f"{root}/dataset.json holds none"
    assert says in refusal(root, "--config.net.num_classes=4")


# --- archives


def test_an_archive_has_the_examples_of_its_folder(root, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    files = numbered(*(f"{i % 3}/{i}.png" for i in range(12)))
    fill(root, files)
    archive = write_zip(root / "../a.zip", {f"./{n}": c for n, c in files.items()})
    one, other = open_folder(root), open_folder(archive)
    np.testing.assert_array_equal(*(s.take(np.arange(12)).image for s in (one, other)))
    assert labels_of(one) == labels_of(other) == [i % 3 for i in range(12)]
    assert one.fingerprint == other.fingerprint
    # From many threads at once.
    pairs = zip(*(batches(s, 0, 0, 60, 5, True) for s in (one, other)), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours.image, theirs.image)


def flagged(path):
    """Marks the first member as encrypted."""
    content = bytearray(path.read_bytes())
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + place] |= 1
    path.write_bytes(content)


def damaged(path):
    content = bytearray(path.read_bytes())
    content[content.index(GOOD) + 50] ^= 1
    path.write_bytes(content)


def oversized(path):
    """Makes the directory announce a gigabyte for the first member."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    content[start + 24 : start + 28] = struct.pack("<I", 1 << 30)
    path.write_bytes(content)


def unknown_method(path):
    content = bytearray(path.read_bytes())
    for header, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(header) + place] = 99
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flagged, "encrypted"),
        (damaged, "not readable: Bad CRC-32"),
        (oversized, "above the limit of 256 MiB"),
        (unknown_method, "not readable: That compression method is not supported"),
    ],
)
def test_a_bad_member_is_named_as_a_bad_file_is(root, damage, says):
    path = write_zip(root / "a.zip", {"1.png": GOOD, "2.png": picture(2)})
    damage(path)
    with pytest.raises(DataError, match=f"1 of 2 images cannot .*\n  1.png: {says}"):
        open_folder(path)
    assert len(open_folder(path, skip_bad=0.5)) == 1


@pytest.mark.parametrize("length", [0, 20, -9])
def test_what_is_no_archive_is_refused(root, refusal, length):
    path = write_zip(root / "a.zip", {"1.png": GOOD})
    path.write_bytes(path.read_bytes()[:length])
    assert f"data.dir={path}: neither a directory nor a zip archive" in refusal(path)


def test_a_file_of_arrays_is_no_folder(refusal, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((2, *SHAPE), np.uint8))
    assert f"{path}: a file of arrays; set data.name='arrays'" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_in_an_archive_is_a_key_and_no_path(root, refusal):
    files = {"../1.png": GOOD, "/2.png": GOOD, "a/3.png": GOOD}
    path = write_zip(root / "a.zip", files)
    assert len(open_folder(path)) == 2  # hidden, as any name that begins with a dot
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/3.png", GOOD)
    assert f"{path}: holds a/3.png twice" in refusal(path)


# --- arrays


def test_arrays_are_read_with_their_labels(tmp_path):
    images = np.stack([image_of(i, 4, 6) for i in range(3)])
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([2, 0, 1]))
    source = open_source("arrays", dir=str(tmp_path / "a.npz"), image_shape=SHAPE)
    assert (source.class_names, labels_of(source)) == (("0", "1", "2"), [2, 0, 1])
    np.savez(tmp_path / "b.npz", arr_0=images)
    np.save(tmp_path / "c.npy", images)
    for name in ("b.npz", "c.npy"):
        source = open_source("arrays", dir=str(tmp_path / name), image_shape=SHAPE)
        assert (source.class_names, labels_of(source)) == ((), [0, 0, 0])


IMAGES = np.zeros((3, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            {"images": IMAGES, "labels": np.array([0, -1, 2])},
            "labels are from -1 to 2,",
        ),
        ({"images": IMAGES, "labels": np.arange(3.0)}, "labels are float64, not whole"),
        ({"images": IMAGES, "labels": np.arange(2)}, "labels are (2), images (3, 8"),
        ({"images": IMAGES, "labels": np.array([0, 1, 1 << 40])}, "labels are from 0"),
        ({"images": IMAGES, "labels": np.eye(3, dtype=int)}, "labels are (3, 3)"),
        ({"images": IMAGES / 2}, "images is float64"),
        ({"pixels": IMAGES}, "lacks images (arr_0)"),
        ({"images": IMAGES[:, :4]}, "shape (4, 8, 1), but the configuration has (8"),
        ({"images": IMAGES, "labels": np.array([0, 2, 2])}, "no image of class '1'"),
        ({"images": IMAGES, "labels": np.array([0, 1, 1])}, "must be 0 or 2, the numb"),
        ({"images": IMAGES}, "must be 0, since the data has no labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, refusal, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    flags = ["--config.net.num_classes=3"]
    assert says in refusal(tmp_path / "a.npz", *flags, name="arrays")


def test_arrays_have_one_split_and_a_file(tmp_path, refusal):
    path = tmp_path / "a.npz"
    assert f"data.dir={path}: no such file" in refusal(path, name="arrays")
    assert "must be an .npz or .npy file" in refusal("", name="arrays")
    assert "not a regular file" in refusal(tmp_path, name="arrays")
    np.savez(path, images=IMAGES)
    says = "has the split 'train' only, not 'test'"
    assert says in refusal(path, "--config.data.split=test", name="arrays")
