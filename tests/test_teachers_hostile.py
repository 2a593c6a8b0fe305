"""Hostile and damaged files: one line, exit code 2, nothing executed or left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import converting
from tests.hostile_files import BOMBS, CASES, FACTS, FOLDERS, MADE

ROOT = Path(__file__).parents[1]
# Refuses each file, and prints the exit codes and the memory in MiB that they took.
BOUNDED = """
import resource, sys
from progdist.commands import convert, devices
from progdist.errors import exit_with
from progdist import teachers
devices.prepare_for_sampling(1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**32
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out, *rest = sys.argv[1:]
for word in rest:
    if word.startswith("--"):
        continue
    flags = [flag for flag in rest if flag.startswith("--")]
    try:
        exit_with(convert.main, ["progdist convert", word, f"--out={out}", *flags])
    except SystemExit as ended:
        print(ended.code)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def refused(source, tmp_path, capsys, monkeypatch):
    """The line; nothing but the source is in the directory afterwards."""
    before = {path.name for path in tmp_path.iterdir()}
    out = tmp_path / "out"
    said = converting.refusal(source, out, capsys, monkeypatch, **FACTS)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not (ROOT / MADE).exists()
    assert not Path(MADE).exists()
    return said


@pytest.mark.parametrize("name", [n for n in CASES if n != "a compressed member"])
def test_a_file_is_refused_in_one_line(name, tmp_path, capsys, monkeypatch):
    suffix, make, message = CASES[name]
    source = tmp_path / f"model{suffix}"
    make(source)
    said = refused(source, tmp_path, capsys, monkeypatch)
    assert message in said
    assert said.startswith(f"{source}: ")
    assert said.isprintable()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_diffusers_is_refused_in_one_line(
    name, tmp_path, capsys, monkeypatch
):
    source = tmp_path / "model"
    FOLDERS[name](source)
    refused(source, tmp_path, capsys, monkeypatch)


def test_no_file_takes_more_memory_than_a_few_times_its_size(tmp_path):
    sources = []
    for number, name in enumerate(BOMBS):
        suffix, make, _ = CASES[name]
        sources.append(tmp_path / f"{number}{suffix}")
        make(sources[-1])
    sources.append(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pt")))
    sources[-1].touch()
    flags = converting.flags(FACTS)
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, tmp_path / "out", *sources, *flags],
        **{"capture_output": True, "text": True, "cwd": tmp_path},
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    *codes, mebibytes = map(int, done.stdout.split())
    assert codes == [2] * len(sources), done.stderr
    assert mebibytes < 100
    messages = [CASES[name][2] for name in BOMBS] + ["not a file of weights"]
    for line, message in zip(lines, messages, strict=True):
        assert message in line
    assert not (tmp_path / "out").exists()
