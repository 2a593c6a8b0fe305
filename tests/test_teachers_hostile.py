"""Hostile and damaged files: one line, exit code 2, nothing executed or left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from progdist import teachers
from progdist.errors import InputError
from tests import converting, hostile_files as hostile
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
out, *lines = sys.argv[1:]
for line in lines:
    word, *flags = line.split(",")
    try:
        exit_with(convert.main, ["progdist convert", word, f"--out={out}", *flags])
    except SystemExit as ended:
        print(ended.code)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def refused(source, facts, tmp_path, capsys, monkeypatch):
    """The line; nothing but the source is in the directory afterwards."""
    before = {path.name for path in tmp_path.iterdir()}
    out = tmp_path / "out"
    said = converting.refusal(source, out, capsys, monkeypatch, **facts)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert not (ROOT / MADE).exists()
    assert not Path(MADE).exists()
    return said


@pytest.mark.parametrize("name", [n for n in CASES if n != "a compressed member"])
def test_a_file_is_refused_in_one_line(name, tmp_path, capsys, monkeypatch):
    suffix, make, message = CASES[name]
    source = tmp_path / f"model{suffix}"
    make(source)
    said = refused(source, FACTS[suffix], tmp_path, capsys, monkeypatch)
    assert message in said
    assert said.startswith(f"{source}: ")
    assert said.isprintable()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_diffusers_is_refused_in_one_line(
    name, tmp_path, capsys, monkeypatch
):
    source = tmp_path / "model"
    FOLDERS[name](source)
    facts = {"betas": "linear", "output": "eps"}
    refused(source, facts, tmp_path, capsys, monkeypatch)


def line_of(source):
    """The line that refuses a folder, of bounded length and without escapes."""
    with pytest.raises(InputError) as caught:
        teachers.read_teacher(source).read()
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < len(str(source)) + 600
    return said


def folder_of(path, config=None, scheduler=None):
    """A small model of diffusers with changes of its settings."""
    hostile.folder(hostile.config(**config or {}))(path)
    settings = {"_class_name": "DDIMScheduler"} | (scheduler or {})
    (path / "scheduler_config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("name", hostile.CONFIGS)
def test_a_configuration_is_refused_in_one_line(name, tmp_path):
    fields, message = hostile.CONFIGS[name]
    assert message in line_of(folder_of(tmp_path / "model", fields))


@pytest.mark.parametrize("name", hostile.SCHEDULERS)
def test_a_scheduler_is_refused_in_one_line(name, tmp_path):
    fields, message = hostile.SCHEDULERS[name]
    assert message in line_of(folder_of(tmp_path / "model", scheduler=fields))


@pytest.mark.parametrize("name", hostile.INDICES)
def test_an_index_is_refused_in_one_line(name, tmp_path):
    value, message = hostile.INDICES[name]
    path = folder_of(tmp_path / "model")
    (path / "model_index.json").write_text(json.dumps({"unet": value}))
    assert message in line_of(path)


@pytest.mark.parametrize("name", hostile.SHARDS, ids=ascii)
def test_a_shard_is_refused_in_one_line(name, tmp_path):
    path = folder_of(tmp_path / "model")
    index = path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    assert "is not a file beside it" in line_of(path)


def test_the_channels_of_a_file_are_bounded(tmp_path):
    """An array without elements may claim any shape."""
    name = "time_embed__0__weight"
    empty = hostile.torch_file(**{name: np.zeros((0, 2**40), np.float32)})
    empty(tmp_path / "model.pt")
    with pytest.raises(InputError, match="ch=1099511627776: must be at most 65,536"):
        teachers.read_teacher(tmp_path / "model.pt", teachers.Options(**FACTS[".pt"]))


def test_a_page_is_read_to_its_front_matter_alone(tmp_path):
    path = folder_of(tmp_path / "model")
    with (path / "README.md").open("wb") as file:
        file.write(b"---\nlicense: mit\n---\n")
        file.truncate(2**33)  # takes no space
    assert teachers.read_teacher(path).card["license"] == "mit"


def test_no_file_takes_more_memory_than_a_few_times_its_size(tmp_path):
    sources, lines = [], []
    for number, name in enumerate(BOMBS):
        suffix, make, _ = CASES[name]
        sources.append(tmp_path / f"{number}{suffix}")
        make(sources[-1])
        flags = converting.flags(FACTS[suffix])
        lines.append(",".join([str(sources[-1]), *flags]))
    sources.append(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pt")))
    sources[-1].touch()
    lines.append(sources[-1])
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, tmp_path / "out", *lines],
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
