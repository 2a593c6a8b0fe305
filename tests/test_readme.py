"""The READMEs: every command and example runs in small, every link leads somewhere."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from progdist.__main__ import run
from progdist.commands import devices
from progdist.config.presets import load_config
from progdist.report import save_png
from tests import diffusers_models
from tests.config_table import with_tables
from tests.diffusers_models import write_random

ROOT = Path(__file__).parents[1]
ROOMS = "configs", "launch", "progdist", "tests"
PAGES = [ROOT / "README.md"]
PAGES += sorted(path for room in ROOMS for path in (ROOT / room).rglob("README.md"))
LINKED = [*PAGES, ROOT / ".github" / "CONTRIBUTING.md"]
HOUSE = ROOT / "progdist" / "README.md"
SET_UP = "python3 -m venv .venv && .venv/bin/pip install -e "
MAIN = ". && .venv/bin/progdist train runs/digits --config=digits"
TESTS = "'.[test]' && .venv/bin/python -m pytest"
IMAGES = "progdist sample runs/digits --steps=1 --num=256 --out=images.npz"
EXPORT = "progdist export runs/digits --steps=4 --out=exported/digits4"
NOT_RUN = {
    SET_UP.replace(".venv/bin/", ""): "here, by the fixture `place`",
    "git clone ": "needs a published copy",
    "progdist prepare ": "needs TensorFlow and the network; see tests/test_prepare.py",
    "progdist convert hf://": "needs the network; see tests/test_hub.py",
    "progdist sample teachers/": "takes a minute; see tests/test_teachers_diffusers.py",
    "progdist export runs/cat": "needs a run; see tests/test_export_diffusers.py",
    "progdist export runs/fashion16": "the same",
    ".ci/run": "runs the tests",
    "python -m pytest": "runs the tests",
    "python -m tests.": "takes minutes",
    "taskset ": "takes minutes, and PyTorch",
}


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The code blocks of a page in one language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fence.findall(text_of(page))


def commands(page):
    lines = (line for block in blocks(page, "bash") for line in block.splitlines())
    return [line for line in lines if line]


# Those of launch/ are tried in tests/test_launch_scripts.py.
COMMANDS = dict.fromkeys(
    command.replace(".venv/bin/", "")
    for page in PAGES
    if page != ROOT / "launch" / "README.md"
    for command in commands(page)
)
RUN = [command for command in COMMANDS if not command.startswith(tuple(NOT_RUN))]
# The diffs' examples need the diffs.
# Pipelines of diffusers that the pages convert: height and channels of their images.
PIPELINES = {"ddpm-cat": (64, 3), "ddpm-cifar10-32": (32, 3), "runs/teacher": (16, 1)}
EXAMPLES = [
    pytest.param(page, code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page != HOUSE
    for number, code in enumerate(blocks(page, "python"))
]


def in_small(word):
    """A word of a command, for the small variant of its configuration."""
    if word.startswith("--config=") and not word.startswith("--config=folder:"):
        return word.removesuffix(":smoke") + ":smoke"
    return word.replace("steps_64", "steps_4").replace("=0,0.3,1", "=0")


def progdist(command, *flags):
    """Runs a command in this process, whose devices are open."""
    assert command.startswith("progdist ")
    run([*map(in_small, shlex.split(command)), *flags])


def write_pipelines(place):
    for name, (size, channels) in PIPELINES.items():
        config = diffusers_models.TINY | {"sample_size": size}
        config |= {"in_channels": channels, "out_channels": channels}
        path = place / name / ("teacher" if name == "runs/teacher" else "")
        write_random(path, config, diffusers_models.scheduler_config("linear"))
    images = np.zeros((80, 16, 16, 1), np.uint8)
    np.savez(place / "runs" / "teacher" / "data.npz", arr_0=images)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which the main command has run, with photos and pipelines."""
    place = tmp_path_factory.mktemp("place")
    for number in range(12):
        path = place / "photos" / "ab"[number % 2] / f"{number}.png"
        save_png(path, np.full((16, 16, 3), 20 * number, np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        shutil.copytree("photos", "cats")
        write_pipelines(place)
        one = jax.local_devices()[:1]  # compiles faster than eight
        patch.setattr(jax, "devices", lambda *_: one)
        for prepare in ("prepare", "prepare_for_sampling"):
            patch.setattr(devices, prepare, lambda *_: None)
        progdist(MAIN.split("bin/")[1])
        yield place


def test_the_first_commands_set_everything_up():
    assert commands(PAGES[0])[1:3] == [SET_UP + MAIN, SET_UP + TESTS]


def test_the_main_command_leaves_its_pictures(place):
    assert (place / "runs/digits/samples/by_num_steps.png").exists()
    assert (place / "runs/digits/figures/quality.png").exists()


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command, place):
    if "--images=" in command:
        progdist(IMAGES)
    if "runs/wide" in command and "report" in command:
        shutil.copytree("runs/digits", "runs/wide")
    # The main command trains; of the others all checks of a start are made.
    progdist(command, *["--dry_run"] * ("train runs/" in command))
    out = re.search(r"--out=(\S+)", command)
    assert not out or (place / out[1]).stat().st_size > 100 or (place / out[1]).is_dir()


def test_the_long_programs_of_the_tests_can_start():
    named = re.findall(r"python -m (tests\.[\w.]+)", "\n".join(COMMANDS))
    assert named
    for module in named:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "diffusers"):
                raise


@pytest.mark.parametrize(("page", "code"), EXAMPLES)
def test_an_example_runs(page, code, place, monkeypatch):
    if "sampler.jax.zip" in code:
        progdist(EXPORT + " --overwrite --formats=jax")
        monkeypatch.chdir(place / "exported" / "digits4")
    exec(compile(code, str(page), "exec"), {"__name__": "example"})


def test_a_configuration_file_is_accepted(place):
    (code,) = blocks(ROOT / "configs" / "README.md", "python")
    Path("mine.py").write_text(code)
    assert load_config("mine.py").distill.ratio == 4


def test_the_front_page_is_short():
    assert len(text_of(PAGES[0]).splitlines()) <= 200


# --- links


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def links(page):
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    return ["".join(pair) for pair in found]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if "://" in link:
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_front():
    reached, left = set(), [PAGES[0]]
    while left:
        page = left.pop()
        reached.add(page)
        paths = (link.partition("#")[0] for link in links(page) if "://" not in link)
        targets = {(page.parent / path).resolve() for path in paths if path}
        left += [path for path in targets & set(PAGES) if path not in reached]
    assert reached == set(PAGES)


# --- what the pages say about the code


def test_the_tables_of_fields_are_those_of_the_dataclasses():
    page = text_of(ROOT / "configs" / "README.md")
    assert page == with_tables(page), "run python -m tests.config_table"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_modules_in_the_tables_exist(page):
    for row in re.findall(r"^\| (`[^|]+) \|", text_of(page), re.MULTILINE):
        for path in re.findall(r"`([\w/]+\.py)`", row):
            assert (page.parent / path).is_file(), path


def test_the_messages_are_those_of_the_code():
    _, _, section = text_of(ROOT / "launch" / "README.md").partition(
        "## Troubleshooting"
    )
    rows = re.findall(r"^\| (`.+?) \| ", section.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 10
    paths = [*(ROOT / "progdist").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    paths += (ROOT / "launch").glob("*.s[hb]*")  # the shell's and SLURM's
    sources = "\n".join(path.read_text() for path in paths)
    code = re.sub(r"\"\s*\n\s*f?\"", "", sources)
    for message in (m for row in rows for m in re.findall(r"`([^`]+)`", row)):
        for part in message.split("…"):
            assert part.strip() in code, part


# --- diffs


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the package with the diffs of its page, each of which applies alone."""
    tree = tmp_path_factory.mktemp("tree")
    for room in ("progdist", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.md")
        shutil.copytree(ROOT / room, tree / room, ignore=ignored)
    diffs = blocks(HOUSE, "diff")
    assert len(diffs) == 5
    for flags in (["--check"], []):
        for diff in diffs:
            apply = ["git", "apply", "-p0", *flags]
            subprocess.run(apply, cwd=tree, input=diff, text=True, check=True)
    return tree


def in_tree(tree, *words):
    """Standard output of Python, with the copy of the package."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_diffs_add_works(tree):
    examples = blocks(HOUSE, "python")
    output = in_tree(tree, "-c", "\n".join(examples)).splitlines()
    expected = [line for code in examples for line in re.findall(r"\)  # (.*)", code)]
    assert output == expected


@pytest.mark.slow
def test_a_run_with_all_that_the_diffs_add(tree):
    lines = [
        "from progdist.config import load_preset",
        "from progdist.nets.settings import MLPConfig",
        "def get_config():",
        "    config = load_preset('digits')",
        "    config.net = MLPConfig(width=256)",
        "    return config",
    ]
    (tree / "mine.py").write_text("\n".join(lines))
    command = ["-m", "progdist", "train", "run", "--config=mine.py:smoke"]
    command += ["--config.base.weight=min_snr", "--config.schedule=shifted_cosine"]
    in_tree(tree, *command, "--config.evaluation.metrics=fd,mean")
    assert '"mean distance-pixels"' in (tree / "run" / "eval.jsonl").read_text()
    sample = ["--steps=2", "--sampler=midpoint", "--out=a.png"]
    in_tree(tree, "-m", "progdist", "sample", "run", *sample)
    assert (tree / "a.png").exists()
