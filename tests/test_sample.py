"""The command that samples: what it writes, resumes, replaces and refuses."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdist import report, sample
from progdist.commands import devices
from progdist.commands.images import check_size
from progdist.data import open_source
from progdist.errors import UsageError
from progdist.sampling.pretrained import Pretrained
from tests.commands import ROOT, answer
from tests.models import write_models
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("runs") / "classes", num_classes=3)


@pytest.fixture
def draw(workdir, monkeypatch, capsys):
    """Calls the command; returns its exit code and its standard error."""

    def call(*flags, workdir=workdir):
        flags = [f"--workdir={workdir}", "--num_steps=1", *BATCHES, *flags]
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
        try:
            sample.exit_with(sample.main, ["progdist", *flags])
        except SystemExit as ended:
            return ended.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return call


@pytest.fixture
def quick(monkeypatch):
    """Draws images that depend on the seed and on i, without a network."""

    def batches(self, num, *, seed, batch_size, start=0, **_):
        for first in range(start, num, batch_size):
            numbers = range(first, min(first + batch_size, num))
            rngs = (np.random.default_rng([seed, i]) for i in numbers)
            yield np.stack([rng.integers(0, 256, (8, 8, 1), np.uint8) for rng in rngs])

    monkeypatch.setattr(Pretrained, "batches", batches)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def stop_at(number, monkeypatch, error):
    """Makes the write of an image fail."""
    save = report.save_png

    def fail(path, image):
        if path.name == f"{number:06}.png":
            raise error
        save(path, image)

    monkeypatch.setattr(report, "save_png", fail)


BATCHES = ["--batch_size=31"]  # on one device, which compiles faster
FULL = OSError(errno.ENOSPC, "No space left on device", "D")


# --- what is written


@pytest.mark.parametrize("stop", [45])
def test_a_directory_that_was_stopped_holds_the_images_of_an_array(
    stop, draw, tmp_path, monkeypatch
):
    assert draw("--num=70", f"--out={tmp_path}/all.npz")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(stop, patch, FULL)
        assert draw("--num=70", f"--out={tmp_path}/each/")[0] == 4
    assert draw("--num=70", f"--out={tmp_path}/each/")[0] == 0
    with np.load(tmp_path / "all.npz") as stored:
        assert (str(stored["seed"]), str(stored["num_steps"])) == ("0", "1")
        images = stored["arr_0"]
    names = sorted(p.name for p in (tmp_path / "each").iterdir())
    assert names == [*(f"{i:06}.png" for i in range(70)), "request.json"]
    files = [np.asarray(Image.open(tmp_path / "each" / name)) for name in names[:-1]]
    np.testing.assert_array_equal(np.stack(files), images[..., 0])


def test_a_directory_holds_the_classes_as_data_has_them(classes, quick, draw, tmp_path):
    flags = "--num=5", f"--out={tmp_path}/each/"
    assert draw(*flags, workdir=classes)[0] == 0
    labels = json.loads((tmp_path / "each" / "dataset.json").read_text())["labels"]
    assert labels == [[f"{i:06}.png", i % 3] for i in range(5)]
    source = open_source("folder", dir=f"{tmp_path}/each", image_shape=(8, 8, 1))
    assert source.num_classes == 3
    assert sorted(source.take(np.arange(5)).label) == [0, 0, 1, 1, 2]


# --- what is resumed


@pytest.mark.parametrize("number", [3, 31, 45, 69])
def test_a_directory_resumes_from_the_batch_of_the_first_missing_image(
    number, quick, draw, tmp_path, monkeypatch
):
    assert draw("--num=70", f"--out={tmp_path}/whole/")[0] == 0
    flags = "--num=70", f"--out={tmp_path}/each/"
    with monkeypatch.context() as patch:
        stop_at(number, patch, FULL)
        assert draw(*flags) == (4, "progdist: D: No space left on device\n")
    assert len(contents(tmp_path / "each")) == number + 1
    (tmp_path / "each" / ".000007.png.12345").write_bytes(b"half")
    starts, inner = [], Pretrained.batches

    def batches(*words, **options):
        starts.append(options["start"])
        return inner(*words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrained, "batches", batches)
        assert draw(*flags)[0] == 0
        assert draw(*flags) == (0, "")  # finished, nothing is drawn
    assert starts == [number // 31 * 31]
    assert contents(tmp_path / "each") == contents(tmp_path / "whole")


def test_more_images_of_a_request_are_added(classes, quick, draw, tmp_path):
    for num in (20, 40):
        flags = f"--num={num}", f"--out={tmp_path}/each/"
        assert draw(*flags, workdir=classes)[0] == 0
    assert draw("--num=40", f"--out={tmp_path}/whole/", workdir=classes)[0] == 0
    assert contents(tmp_path / "each") == contents(tmp_path / "whole")


def test_images_of_some_classes_are_another_request(classes, quick, draw, tmp_path):
    out = f"--out={tmp_path}/each/"
    assert draw("--label=dog,0", "--num=3", out, workdir=classes)[0] == 0
    labels = json.loads((tmp_path / "each" / "dataset.json").read_text())["labels"]
    assert [label for _, label in labels] == [1, 0, 1]
    code, error = draw("--num=4", out, workdir=classes)
    assert (code, "holds labels [1, 0], not []; --overwrite" in error) == (2, True)


def test_images_lost_or_empty_are_drawn_again(quick, draw, tmp_path):
    flags = "--num=40", f"--out={tmp_path}/each/"
    assert draw(*flags)[0] == 0
    before = contents(tmp_path / "each")
    (tmp_path / "each" / "000035.png").unlink()
    (tmp_path / "each" / "000020.png").write_bytes(b"")
    assert draw(*flags)[0] == 0
    assert contents(tmp_path / "each") == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_between_two_images(
    signum, quick, draw, tmp_path, monkeypatch
):
    save = report.save_png

    def signalled(path, image):
        save(path, image)
        if path.name == "000010.png":
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(report, "save_png", signalled)
    code, error = draw("--num=2000", f"--out={tmp_path}/each/")
    assert code == 128 + signum
    written = len(contents(tmp_path / "each")) - 1
    assert 11 <= written < 2000
    line = f"progdist: stopped by {signum.name}, with {written:,} of 2,000 images writt"
    assert f"{line}en; the same command resumes" == error.strip()


def test_a_killed_command_leaves_whole_images_and_resumes(draw, workdir, tmp_path):
    """The resumed images are those of another process, with other devices."""
    flags = ["--num=1500", f"--out={tmp_path}/each/", "--num_steps=1", *BATCHES]
    command = [sys.executable, "-m", "progdist.sample", f"--workdir={workdir}", *flags]
    each = tmp_path / "each"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: (each / "000040.png").exists())
        process.kill()
    assert process.returncode == -signal.SIGKILL
    written = {n: c for n, c in contents(each).items() if not n.startswith(".")}
    assert 42 <= len(written) < 1501
    assert draw("--num=1500", f"--out={each}/")[0] == 0
    after = contents(each)
    assert len(after) == 1501
    assert {n: after[n] for n in written if n != "request.json"}.items() <= (
        written.items()
    )


# --- what is refused and replaced


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed=1"], "holds seed 0, not 1; --overwrite"),
        (["--num_steps=2"], "holds num_steps 1, not 2; model "),
        (["--sampler=ancestral"], "sampler ddim, not ancestral; gamma None, not 0.3"),
        (["--precision=highest"], "holds precision None, not highest; --overwrite"),
        (["--num=4"], "holds more than 4 images; --overwrite"),
    ],
)
def test_another_request_is_refused_or_replaces(flags, says, quick, draw, tmp_path):
    each = tmp_path / "each"
    assert draw("--num=9", f"--out={each}/")[0] == 0
    before = contents(each)
    code, error = draw("--num=9", f"--out={each}/", *flags)
    assert (code, error.count("\n")) == (2, 1)
    assert f"--out={each}/: {says}" in error or says in error
    assert contents(each) == before
    for name in ("notes.txt", "000011.png"):  # not counted by the request
        (each / name).write_text("mine")
    assert draw("--num=9", f"--out={each}/", *flags, "--overwrite")[0] == 0
    assert draw("--num=9", f"--out={tmp_path}/whole/", *flags)[0] == 0
    mine = {"notes.txt": b"mine", "000011.png": b"mine"}
    assert contents(each) == contents(tmp_path / "whole") | mine
    for more in ([], ["--overwrite"]):
        code, error = draw("--num=12", f"--out={each}/", *flags[:-1], *more)
        assert code == 2
    assert "000011.png is not an image of request.json" in error


@pytest.mark.parametrize("overwrite", ["--nooverwrite", "--overwrite"])
@pytest.mark.parametrize("name", ["000000.png", "notes.txt", "request.json"])
def test_files_of_others_are_never_replaced(
    name, overwrite, draw, tmp_path, monkeypatch
):
    monkeypatch.setattr(Pretrained, "batches", None)
    (tmp_path / "each").mkdir()
    (tmp_path / "each" / name).write_text('{"num": "mine"}')
    code, error = draw(f"--out={tmp_path}/each/", overwrite)
    assert (code, error.count("\n")) == (2, 1)
    assert "choose another directory" in error
    assert contents(tmp_path / "each") == {name: b'{"num": "mine"}'}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out=/proc/a.png"], "--out=/proc/a.png: "),
        (["--out=/proc/each/"], "--out=/proc/each: "),
        (["--out=/dev/null/"], "--out=/dev/null/: is not a directory"),
        (["--out=D/none/each/"], "there is no directory D/none"),
        (["--out=D/none/a.npz"], "there is no directory D/none"),
        (["--out=D"], "D: must be an image (.png, .jpg, .webp, .gif, .tiff or another"),
        (
            ["--out=D/a.png", "--num=1025"],
            "1,025 images of 8x8 are too many for",
        ),
        (["--out=D/a.npz", "--num=999999999"], " GiB; choose --out=NAME/"),
        (["--out=D/a.png", "--num=0"], "num=0"),
        (["--out=D/a/", "--num=9999999999"], "num=9999999999"),
        (["--out=D/a.png", "--num_steps=1", "--sampler=heun"], "makes 2 network calls"),
        (["--out=D/a/", "--num_steps=3"], "available steps: 1, 2, 4"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_drawn(
    flags, says, workdir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Pretrained, "batches", None)
    flags = [f.replace("D", str(tmp_path), 1) for f in flags]
    flags = [f"--workdir={workdir}", "--num_steps=1", *flags]
    code, error = answer(sample, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, error.count("\n")) == (2, 1)
    assert says.replace("D", str(tmp_path), 1) in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("num", "says"),
    [(257, "257 images of 512x512"), (256, None), (1025, "1,025 images")],
)
def test_a_grid_is_bounded_by_its_images_and_its_pixels(num, says):
    if not says:
        check_size(Path("a.png"), num, 0, (512, 512, 1))
        return
    with pytest.raises(UsageError, match=says):
        check_size(Path("a.png"), num, 0, (512, 512, 1))
