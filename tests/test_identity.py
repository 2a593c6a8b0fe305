"""Data is known by its content: what counts as the same, and what a run does then."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from progdist import checkpoint, main
from progdist.config import ConfigError
from progdist.data import DataError, open_source, records, sources
from progdist.trainer import resume
from progdist.trainer.state import Progress
from tests.commands import ROOT, answer
from tests.originals import image_of
from tests.pictures import SHAPE, encoded, fill
from tests.sources import unpack_cifar10

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    # ml_collections loads a configuration by a method that Python means to remove.
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]


def picture(number):
    """A file whose size does not depend on its pixels."""
    return encoded(image_of(number, 4, 6), compress_level=0)


def make_folder(dir, change):
    numbers = [0, 1, 9 if change else 2]
    fill(dir, {f"{'ab'[i % 2]}/{i}.png": picture(n) for i, n in enumerate(numbers)})
    return {"name": "folder", "dir": str(dir), "image_shape": SHAPE}


def make_archive(dir, change):
    path = dir / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, number in enumerate([0, 1, 9 if change else 2]):
            member = zipfile.ZipInfo(f"{'ab'[i % 2]}/{i}.png")
            archive.writestr(member, picture(number))
    return {"name": "folder", "dir": str(path), "image_shape": SHAPE}


def make_arrays(dir, change):
    images = np.stack([image_of(i, 4, 6) for i in (0, 1, 9 if change else 2)])
    np.savez(dir / "images.npz", arr_0=images, labels=np.array([0, 1, 0]))
    return {"name": "arrays", "dir": str(dir / "images.npz")}


def make_labels(dir, change):
    images = np.stack([image_of(i, 4, 6) for i in range(3)])
    np.savez(dir / "images.npz", arr_0=images, labels=np.array([0, 1, change]))
    return {"name": "arrays", "dir": str(dir / "images.npz")}


def make_idx(dir, change):
    shape = bytes.fromhex("00000803 00000002 00000004 00000006")
    pixels = bytes([*range(47), 9 if change else 47])
    (dir / "train-images-idx3-ubyte").write_bytes(shape + pixels)
    labels = bytes.fromhex("00000801 00000002 0001")
    (dir / "train-labels-idx1-ubyte").write_bytes(labels)
    return {"name": "mnist", "dir": str(dir)}


def make_records(dir, change):
    if not change:
        unpack_cifar10(dir)
    else:  # the last two examples in the other order
        from array_record.python import array_record_module as array_record

        (path,) = dir.glob("cifar10/*/cifar10-train.array_record*")
        size = path.stat().st_size
        reader = array_record.ArrayRecordReader(str(path))
        examples = reader.read_all()
        reader.close()
        path.unlink()
        writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
        for example in [*examples[:-2], *examples[:-3:-1]]:
            writer.write(example)
        writer.close()
        assert path.stat().st_size == size
    return {"name": "tfds", "dir": str(dir), "tfds_name": "cifar10"}


KINDS = {
    "folder": make_folder,
    "archive": make_archive,
    "arrays": make_arrays,
    "labels": make_labels,
    "idx": make_idx,
    "records": make_records,
}


def fingerprint_of(settings):
    source = open_source(**settings)
    assert source.fingerprint.startswith("1:")
    return source.fingerprint


def with_another_byte(root, settings):
    (path,) = root.glob("cifar10/*/cifar10-test.array_record*")
    content = path.read_bytes()
    try:
        path.write_bytes(content + b"\0")
        open_source(**settings)
    finally:
        path.write_bytes(content)


def files_below(dir):
    return [path for path in dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_content_counts(root, tmp_path, monkeypatch, kind, fits):
    if not fits:
        monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    settings = KINDS[kind](root, False)
    first = fingerprint_of(settings)
    for path in files_below(root):
        os.utime(path, ns=(1, 1))
    assert fingerprint_of(settings) == first
    copy = shutil.copytree(root, tmp_path / "elsewhere" / root.name)
    moved = settings["dir"].replace(str(root), str(copy))
    assert fingerprint_of({**settings, "dir": moved}) == first
    before = {path: path.stat() for path in files_below(root)}
    KINDS[kind](root, True)
    for path, status in before.items():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size
    assert fingerprint_of(settings) != first
    KINDS[kind](root, False)
    assert fingerprint_of(settings) == first


def test_a_name_a_class_and_a_label_count(root):
    settings = make_folder(root, False)
    found = {fingerprint_of(settings), fingerprint_of({**settings, "labels": "none"})}
    (root / "a/0.png").rename(root / "a/9.png")
    found.add(fingerprint_of(settings))
    (root / "a").rename(root / "c")
    found.add(fingerprint_of(settings))
    (root / "z").mkdir()  # a class without images
    found.add(fingerprint_of(settings))
    for labels in ((0, 1, 1), (1, 0, 0)):
        names = "c/2.png", "c/9.png", "b/1.png"
        entries = list(zip(names, labels, strict=True))
        fill(root, {"dataset.json": json.dumps({"labels": entries}).encode()})
        found.add(fingerprint_of(settings))
    assert len(found) == 7


def test_the_examples_of_a_split_count(root):
    settings = make_records(root, False)
    splits = "train", "test", "train[:5]", "train[5:]", "train+test"
    assert len({fingerprint_of({**settings, "split": s}) for s in splits}) == 5


def test_the_rule_of_averages_counts_where_it_changes_pixels(root):
    settings = make_records(root, False)
    (root / "cifar10").rename(root / "imagenet")  # whose images are averaged
    settings |= {"tfds_name": "imagenet"}

    def fingerprint(side):
        return fingerprint_of(settings | {"image_shape": (side, side, 3)})

    assert fingerprint(16) != fingerprint(32)
    (root / "imagenet").rename(root / "cifar10")
    settings |= {"tfds_name": "cifar10"}
    assert fingerprint(16) == fingerprint(32)


def test_recorded_digests_of_records_are_used_until_a_file_is_newer(
    root, monkeypatch, capsys
):
    settings = make_records(root, False)
    first = fingerprint_of(settings)
    (dir,) = root.glob("cifar10/*/")
    records.write_digests(dir)
    (root / "../cache").rename(root / "../forgotten")
    with monkeypatch.context() as patch:
        patch.setattr(records.hashlib, "file_digest", None)
        assert fingerprint_of(settings) == first
    make_records(root, True)  # newer than the digests
    assert fingerprint_of(settings) != first
    with pytest.raises(DataError, match="131,073 bytes, not 131,072 as in digests"):
        with_another_byte(root, settings)
    (dir / "digests.json").write_text("nonsense")
    assert fingerprint_of(settings) != first


# --- a run

FLAGS = [
    "--config=configs/digits.py:smoke",
    "--config.data.name=folder",
    "--config.data.image_shape=(4, 4, 1)",
    "--config.base.num_updates=1",
    "--config.distill.start_steps=1",
    "--config.distill.long_rounds=0",
    "--config.net.num_classes=2",
    "--config.net.ch_mult=(1,)",
    "--config.base.ema_decay=0",
    "--config.log_every=1",
    "--config.save_every=1",
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The workdir of a run on `make_folder`, which lies beside it."""
    dir = tmp_path_factory.mktemp("begun")
    make_folder(dir / "images", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(dir / "cache"))
        patch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
        start(patch, dir)
    return dir


def start(monkeypatch, dir, *flags):
    """Runs the command in this process to its end."""
    monkeypatch.chdir(ROOT)
    done = "progdist.commands.devices.prepare"  # by the tests, already
    monkeypatch.setattr(done, lambda *_: None)
    main.main(command(dir, *flags))


def command(dir, *flags):
    data = f"--config.data.dir={dir / 'images'}"
    return ["progdist", *FLAGS, data, f"--workdir={dir / 'w'}", *flags]


@pytest.fixture
def run(begun, tmp_path):
    """A copy of the run, with its data."""
    return shutil.copytree(begun, tmp_path / "run")


def rows(run, name):
    return [json.loads(line) for line in (run / "w" / name).read_text().splitlines()]


def test_a_run_resumes_on_the_same_content_alone(run, capsys, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    before = rows(run, "eval.jsonl")
    start(monkeypatch, run)  # elsewhere, and later
    assert rows(run, "eval.jsonl") == before
    starts = run / "w" / "starts.jsonl"  # as if killed before its end was noted
    starts.write_text("".join(starts.read_text().splitlines(True)[:-1]))
    path = run / "images/a/2.png"
    status = path.stat()
    path.write_bytes(picture(9))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    flags = command(run)[1:]
    capsys.readouterr()
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, error.count("\n")) == (2, 1)
    assert "data 'folder' is not what the run began with; restore it, or" in error
    start(monkeypatch, run, "--override")
    again = rows(run, "eval.jsonl")[len(before) :]
    assert len(again) == len(before)
    for one, other in zip(before, again, strict=True):
        assert one["reference"]["content"] != other["reference"]["content"]
        assert (one["params"], one["value"]) != (other["params"], other["value"])


def test_the_names_of_the_classes_are_kept_with_what_depends_on_them(begun):
    assert rows(begun, "starts.jsonl")[0]["class_names"] == ["a", "b"]
    assert [row["class_names"] for row in rows(begun, "eval.jsonl")] == [["a", "b"]] * 2
    (model,) = (begun / "w/models").iterdir()
    assert checkpoint.read_card(model)["class_names"] == ["a", "b"]
    page = (begun / "w/report.html").read_text()
    assert "The 2 classes" in page
    assert '<tr><th scope="row">1</th><td>b</td></tr>' in page
    assert '<th scope="col">class_names</th>' not in page


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        ("", "an earlier version began this run: its data 'folder' cannot be compared"),
        ("0f" * 32, "names and sizes of data 'folder' alone; use --override if the"),
    ],
)
def test_a_run_of_an_earlier_version_is_told_of(recorded, says, tmp_path):
    source = open_source(**make_folder(tmp_path, False))
    said, progress = [], Progress(0, 1, 1, recorded)
    try:
        resume.check_same_data(source, progress, tmp_path, said.append)
    except ConfigError as error:
        assert recorded
        said.append(str(error))
    assert says in said[0]
