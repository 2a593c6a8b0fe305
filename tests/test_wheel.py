"""The sdist and the wheel: what they hold, and that they work where nothing else is."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PINS = ROOT / ".ci" / "constraints-{}.{}.txt".format(*sys.version_info)
UPDATES = 5
LIBRARY = """
import numpy as np
import progdist
np.save("images.npy", progdist.load("runs/smoke", steps=1).sample(4))
"""


def run(*command, cwd, **more):
    """Standard output of a command that nothing of the checkout reaches."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JAX_"))}
    env |= {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"} | more
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel):
    """Bytes of every file of a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tracked(*rooms):
    """Files of the checkout that git tracks."""
    return set(run("git", "ls-files", *rooms, cwd=ROOT).splitlines())


def installed(room):
    """Those of a room that are installed: all but its pages, which are for browsers."""
    return {name for name in tracked(room) if not name.endswith("README.md")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel of the checkout, which is left as it was."""
    path = tmp_path_factory.mktemp("built")
    for name in tracked():
        target = path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    words = "--sdist", "--wheel", f"--outdir={path}"
    run(sys.executable, "-m", "build", *words, cwd=path / "checkout")
    (sdist,), (wheel,) = path.glob("*.tar.gz"), path.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
    """A directory with a package `configs` of the user's, and an installed wheel."""
    path = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "venv", path / ".venv", cwd=path)
    pins = {"PIP_CONSTRAINT": str(PINS)} if PINS.exists() else {}
    run(path / ".venv/bin/pip", "install", built[1], cwd=path, **pins)
    (path / "configs").mkdir()
    for name in ("__init__", "digits", "variants"):
        (path / "configs" / f"{name}.py").write_text("raise RuntimeError('not this')")
    return path


def test_the_wheel_holds_the_package_with_its_presets_and_nothing_else(built):
    found = {name for name in contents(built[1]) if ".dist-info/" not in name}
    presets = {f"progdist/{name}" for name in installed("configs")}
    assert found == installed("progdist") | presets


def test_the_sdist_holds_the_checkout(built):
    with tarfile.open(built[0]) as archive:
        files = (member.name for member in archive if member.isfile())
        found = {name.partition("/")[2] for name in files}
    made = {name for name in found if "egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    dot_files = {".gitignore", ".pre-commit-config.yaml"}
    assert found - made == tracked() - dot_files


def test_a_wheel_of_the_sdist_is_the_wheel_of_the_checkout(built, tmp_path):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--wheel", "--outdir=.", cwd=unpacked)
    (again,) = unpacked.glob("*.whl")
    assert contents(again) == contents(wheel)


def test_an_installed_wheel_trains_and_samples_beside_the_users_own_configs(
    built, site
):
    command, python = site / ".venv/bin/progdist", site / ".venv/bin/python"
    version = built[1].name.split("-")[1]
    assert run(command, "--version", cwd=site) == f"progdist {version}\n"
    assert "digits " in run(command, "train", "--list", cwd=site)
    words = "train", "runs/smoke", "--config=digits:smoke"
    run(python, "-m", "progdist", *words, "--dry_run", cwd=site)  # which imports from .
    run(command, *words, cwd=site)
    run(command, "sample", "runs/smoke", "--steps=1", "--out=a.png", cwd=site)
    with Image.open(site / "a.png") as image:
        assert min(image.size) >= 8
    run(python, "-c", LIBRARY, cwd=site)
    images = np.load(site / "images.npy")
    assert (images.shape, images.dtype) == ((4, 8, 8, 1), np.uint8)


def test_own_images_become_a_model_that_draws_anywhere(site):
    """Train, draw a class, hand the model on, draw there: four commands."""
    command, place = site / ".venv/bin/progdist", site / "elsewhere"
    for number in range(24):
        path = site / "photos" / ("cat", "dog", "owl")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (10 * number, 99, 0)).save(path)
    few = [f"--config.base.num_updates={UPDATES}", "--config.distill.start_steps=2"]
    few += [f"--config.distill.{n}num_updates={UPDATES}" for n in ("", "long_")]
    few += ["--config.distill.long_rounds=1", "--config.log_every=5"]
    few += [f"--config.save_every={UPDATES}", "--config.net.ch=8"]
    run(command, "train", "runs/own", "--config=folder:photos", *few, cwd=site)
    drawn = "--label=owl", "--num=4"
    run(command, "sample", "runs/own", "--steps=1", *drawn, "--out=b.png", cwd=site)
    shutil.copytree(site / "runs/own/models/phase_01_steps_1", place / "model")
    run(command, "sample", "model", *drawn, "--out=b.png", cwd=place)
    assert (place / "b.png").read_bytes() == (site / "b.png").read_bytes()
