"""Every command of the README runs, in small."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from progdist.report import save_png

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -e "
TESTS = SET_UP + "'.[test]' && .venv/bin/python -m pytest"


def in_small(command: str, runs: Path) -> list[str]:
    """The command with this Python, a smoke variant and another place for its runs."""
    command, *words = shlex.split(command.split(" && ")[-1])
    assert command == ".venv/bin/progdist"
    words = [sys.executable, "-m", "progdist", *words]
    for i, word in enumerate(words):
        word = word.replace("runs/", f"{runs}/").replace("steps_64", "steps_4")
        word = word.replace("folder:photos", f"folder:{runs}/photos")
        if word.startswith("--config=") and not word.endswith((":smoke", "photos")):
            word += ":smoke"
        for flag in ("--out=", "--images="):
            if word.startswith(flag):
                word = word.replace(flag, f"{flag}{runs}/")
        words[i] = word
    return words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the main command, the first of all, leaves."""
    runs = tmp_path_factory.mktemp("runs")
    for number in range(12):
        path = runs / "photos" / "ab"[number % 2] / f"{number}.png"
        save_png(path, np.full((16, 16, 3), 20 * number, np.uint8))
    run(COMMANDS[0], runs)
    return runs


def run(command, runs):
    done = subprocess.run(
        in_small(command, runs), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_the_first_two_commands_set_everything_up():
    assert COMMANDS[0].startswith(SET_UP + ". && .venv/bin/progdist train")
    assert COMMANDS[1] == TESTS  # which is how this test runs


def test_the_main_command_leaves_its_pictures(runs):
    assert (runs / "digits" / "samples" / "by_num_steps.png").exists()
    assert (runs / "digits" / "figures" / "quality.png").exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if "progdist sample" in c])
def test_a_command_that_samples_runs(command, runs):
    small = re.sub(r"--steps=\d+", "--steps=2", command)
    run(small, runs)
    assert (runs / re.search(r"--out=(\S+)", command)[1]).stat().st_size > 100


@pytest.mark.parametrize("command", [c for c in COMMANDS[2:] if "progdist train" in c])
def test_a_command_that_trains_runs(command, runs):
    run(command.replace("ch=96", "ch=16"), runs)  # as in the first command: compiled


def test_the_fingerprint_of_a_run_is_printed(runs):
    run(next(c for c in COMMANDS if "progdist fingerprint" in c), runs)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "progdist report" in c])
def test_a_command_that_writes_a_page_runs(command, runs):
    shutil.copytree(runs / "digits", runs / "another", dirs_exist_ok=True)
    run(command.replace("runs/wide", "runs/another"), runs)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "progdist evaluate" in c])
def test_a_command_that_measures_runs(command, runs):
    if "--images" in command and not (runs / "images.npz").exists():
        drawn = next(c for c in COMMANDS if "--out=images.npz" in c)
        run(re.sub(r"--steps=\d+", "--steps=2", drawn), runs)
    run(command.replace("--num_steps=8,16,32", "--num_steps=2"), runs)


def test_the_command_that_exports_runs(runs):
    command = next(c for c in COMMANDS if "progdist export" in c)
    run(command.replace("--steps=4", "--steps=2"), runs)
    out = runs / re.search(r"--out=(\S+)", command)[1]
    snippet = next(s for s in PYTHON if "jax.export" in s)
    subprocess.run([sys.executable, "-c", snippet], cwd=out, check=True, timeout=300)


def test_there_are_no_other_commands():
    tested = ("train", "sample", "evaluate", "report", "export", "fingerprint")
    known = sum(any(f"/progdist {name} " in c for name in tested) for c in COMMANDS)
    assert known == len(COMMANDS) - 1


def test_a_few_lines_of_python_draw(runs):
    lines = next(s for s in PYTHON if "progdist.load" in s)
    lines = lines.replace("runs/digits", f"{runs}/digits").replace("steps=4", "steps=2")
    check = "\nassert (images.shape, x.shape) == ((16, 8, 8, 1), (2, 8, 8, 1))"
    command = [sys.executable, "-W", "error", "-c", lines + check]
    subprocess.run(command, check=True, timeout=300)


def test_every_picture_is_there():
    paths = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    for path in (p for p in paths if not p.startswith("https://")):
        assert (ROOT / path).is_file(), path
