"""The command line as a stranger meets it: help, guesses, and what leads on."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

import progdist
from progdist.__main__ import run
from progdist.commands import COMMANDS, devices
from progdist.errors import exit_with
from tests.commands import ROOT
from tests.models import write_models

# The commands that go by the name of a module, too.
MODULES = {
    "progdist.main": "train",
    "progdist.sample": "sample",
    "progdist.evaluate": "evaluate",
    "progdist.report": "report",
    "progdist.export": "export",
    "progdist.fingerprint": "fingerprint",
    "progdist.data.prepare": "prepare",
}
# Answers all that needs no JAX, in one process.
LIGHT = """
import contextlib, importlib, io, sys
import progdist
from progdist.__main__ import run
from progdist.commands import COMMANDS
from progdist.errors import Error

for name in COMMANDS:
    for words in ([name, "--help"], [name, "--no_such_flag"], [name, "a", "--steps=x"]):
        with contextlib.suppress(SystemExit, Error):
            with contextlib.redirect_stdout(io.StringIO()):
                run(["progdist", *words])
            print("not refused:", words)
with contextlib.redirect_stdout(io.StringIO()):
    for words in ([], ["--help"], ["--version"], ["help"], ["train", "--list"]):
        run(["progdist", *words])
heavy = "jax", "flax", "optax", "orbax", "matplotlib", "tensorflow"
print(sorted(set(heavy) & set(sys.modules)))
"""


@pytest.fixture
def call(capsys, monkeypatch):
    """Calls `progdist`; returns its exit code, standard output and standard error."""
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already

    def call(*words):
        code = 0
        try:
            exit_with(run, ["progdist", *words])
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two runs, one with the classes cat, dog and great owl."""
    path = tmp_path_factory.mktemp("models")
    return write_models(path / "plain"), write_models(path / "pets", num_classes=3)


@pytest.fixture
def place(models, tmp_path, monkeypatch):
    """A directory like a stranger's, with the runs `plain` and `pets`."""
    monkeypatch.chdir(tmp_path)
    for path in models:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "made").mkdir()
    return tmp_path


# --- help


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_the_command_explains_itself(words, call):
    code, output, error = call(*words)
    assert (code, error) == (0, "")
    assert output.startswith("usage: progdist COMMAND ")
    for name, about in COMMANDS.items():
        assert f"\n  {name:12} {about}\n" in output
    assert "\n  progdist train runs/smoke --config=digits:smoke\n" in output
    assert max(map(len, output.splitlines())) <= 88


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_usage_examples_exit_codes_and_a_sentence_for_each_flag(name, call):
    code, output, error = call(name, "--help")
    assert (code, error) == (0, "")
    assert re.match(
        rf"usage: progdist {name} ([A-Z_]+ (... )?)?\[--flag=value ...\]\n", output
    )
    assert re.search(rf"^  progdist {name} ?", output, re.MULTILINE)
    assert re.search(r"^Exit codes:(\n  0|\s0) done", output, re.MULTILINE)
    assert "absl" not in output
    assert max(map(len, output.splitlines())) <= 88
    flags = re.split(r"\n  (?=--)", output.partition("\nFlags:")[2])[1:]
    known = importlib.import_module(f"progdist.commands.{name}").define_flags()
    assert len(flags) == len(list(known.values)) + known.takes_config
    for text in flags:
        spelling, about = text.split(maxsplit=1)
        assert re.fullmatch(r"[A-Z$].*\.", about.strip(), re.DOTALL), spelling


@pytest.mark.parametrize("words", ["help {}", "{} -h", "{} -help", "{} x --help --y"])
def test_help_is_found(words, call):
    assert call(*words.format("sample").split()) == call("sample", "--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_are_accepted_by_its_own_flags(name, call):
    """Values are not checked beyond their types, nor is anything opened or read."""
    about = call(name, "--help")[1].partition("\nFlags:")[0]
    lines = re.sub(r"\n {6,}(?=--)", " ", about).splitlines()
    examples = [shlex.split(line) for line in lines if line.startswith("  progdist ")]
    assert len(examples) > 1
    for _, command, *words in examples:
        module = importlib.import_module(f"progdist.commands.{command}")
        words = [re.sub("(?<=--config=).*", "digits", word) for word in words]
        module.define_flags().parse([command, *words], "")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_answers_by_its_own_name(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["path", "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    output, error = capsys.readouterr()
    assert output.startswith(f"usage: python -m {module} ")
    assert f"\n  progdist {MODULES[module]} " in output
    assert error == ""


def test_the_package_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["path", "env", "--help"])
    monkeypatch.delitem(sys.modules, "progdist.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("progdist", run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: progdist env [--flag=value ...]")


def test_what_needs_no_jax_does_not_load_it():
    words = [sys.executable, "-c", LIGHT]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_package_has_two_names_and_a_version():
    assert {"load", "Pretrained", "Conditioning"} == set(progdist.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", progdist.__version__)
    with pytest.raises(AttributeError, match="'progdist' has no attribute 'laod'"):
        progdist.laod  # noqa: B018


# --- what a stranger guesses

KNOWN = "is not a command; commands are train, sample, evaluate, report, export, conv"
GUESSES = {
    # commands
    "tain": (2, "'tain' is not a command; commands are train, sample, evaluate, rep"),
    "trian runs/x": (2, "did you mean train?"),
    "Train runs/x": (2, "did you mean train?"),
    "eval runs/x": (2, "did you mean evaluate?"),
    "distill": (2, "did you mean train?"),
    "draw": (2, "did you mean sample?"),
    "plot": (2, "did you mean report?"),
    "runs/x --config=digits": (2, f"'runs/x' {KNOWN}"),
    "--config=digits": (2, f"'--config=digits' {KNOWN}"),
    "--version": (0, f"progdist {progdist.__version__}\n"),
    "version": (0, f"progdist {progdist.__version__}\n"),
    "help tain": (2, "did you mean train?"),
    # train: the run and its configuration
    "train": (2, "WORKDIR or --workdir is missing; see --help"),
    "train --config=digits": (2, "WORKDIR or --workdir is missing; see --help"),
    "train x": (2, "--config is missing; progdist train --list names the presets"),
    "train x --config": (2, "--config is missing; see --help"),
    "train x --config=digit": (2, "and files end in .py; did you mean digits?"),
    "train x --config=Digits": (2, "did you mean digits?"),
    "train x --config=cifar": (2, "did you mean cifar10?"),
    "train x --config=digits.py": (2, "no such file; --config=digits is a preset"),
    "train x --config=configs/digits.py": (2, "such file; --config=digits is a preset"),
    "train x --config=digits:tiny": (
        2,
        "digits:tiny: the only variant is digits:smoke",
    ),
    "train x digits": (
        2,
        "'digits' is not a flag; flags are --name=value, and WORKDIR",
    ),
    "train x y --config=digits": (2, "'y' is not a flag; flags are --name=value, and "),
    "train --list": (0, "digits         Handwritten digits, 8x8 grey, shipped with"),
    # train: fields and flags
    "train x --config=digits --config.base.lr=1": (2, "mean config.base.learning_rate"),
    "train x --config=digits --config.lr=1": (2, "mean config.base.learning_rate?"),
    "train x --config=digits --config.batch_size=8": (2, "config.base.batch_size?"),
    "train x --config=digits --config.base=3": (
        2,
        "config.base: holds fields, such as config.base.",
    ),
    "train x --config.base.lr=1": (2, "--config.base.lr: needs --config"),
    "train x --config=digits --lr=1": (2, "mean --config.base.learning_rate?"),
    "train x --config=digits --epochs=3": (2, "mean --config.base.num_updates?"),
    "train x --config=digits --seed=3": (2, "did you mean --config.seed?"),
    "train x --lr=1": (2, "--lr: is not a flag; did you mean --config.base.learning_r"),
    "train --wrkdir=x": (2, "--wrkdir: is not a flag; did you mean --workdir?"),
    "train --wat=x": (2, "--wat: is not a flag; see --help"),
    # sample
    "sample": (2, "WORKDIR or --workdir is missing; see --help"),
    "sample none": (2, "none: no such file or directory"),
    "sample made": (2, "made: holds no model; pass a workdir, a directory of models/,"),
    "sample plain": (2, "plain has models of 1, 2, 4 steps"),
    "sample plain --steps=3": (2, "available steps: 1, 2, 4"),
    "sample plain --steps=0": (2, "--num_steps=0: 0 is not an integer in the range"),
    "sample plain --steps": (2, "Missing value for flag --num_steps"),
    "sample plain --steps=1 --label=cat": (2, "label=cat: the model has no classes"),
    "sample pets --steps=1 --label=dgo": (2, "dog, great owl; did you mean dog?"),
    "sample pets --steps=1 --label=7": (2, "label=7: is not one of cat, dog, great "),
    "sample pets --steps=1 --label=-1": (2, "label=-1: is not one of cat, dog, gr"),
    "sample pets --steps=1 --class=cat": (2, "did you mean --label?"),
    "sample plain --steps=1 -o a.png": (2, "did you mean --out?"),
    "sample plain --steps=1 --out=a.xyz": (2, "a.xyz: must be an image (.png, .jpg,"),
    "sample plain --steps=1 --out=made": (2, "made: must be an image (.png, .jpg, "),
    "sample plain --steps=1 --out=no/a.png": (2, "there is no directory no"),
    "sample plain --steps=1 --sampler=ddpm": (2, "rk4; the sampler of DDPM is ancestr"),
    "sample hf://digits": (2, "hf://digits: must be hf://OWNER/NAME[@REVISION]"),
    # the others
    "evaluate": (2, "WORKDIR or --workdir is missing; see --help"),
    "evaluate none": (2, "none: no such directory"),
    "evaluate plain --metrics=fid": (2, "; FID is the metric fd of the features incep"),
    "evaluate plain --features=vgg": (2, "'vgg' is not one of pixels, inception, ince"),
    "evaluate plain --sampler=ddpm": (2, "rk4; the sampler of DDPM is ancestral"),
    "evaluate plain --steps=3": (2, "no such round; there are 0 (N = 4), 1 (N = 2), "),
    "evaluate plain --metric=fd": (2, "did you mean --metrics?"),
    "export plain --steps=1": (2, "--out is missing; see --help"),
    "export plain --steps=1 --out=made": (2, "already exists; --overwrite replaces an"),
    "export plain --out=e --formats=gguf": (2, "must be one of jax, onnx, safetenso"),
    "export plain --out=e": (2, "plain has models of 1, 2, 4 steps"),
    "prepare digits": (2, "digits: needs no preparation; see progdist train --list"),
    "prepare": (2, "TFDS_NAME or --tfds_name is missing; see --help"),
    "report": (2, "WORKDIR or --workdir is missing; see --help"),
    "report none": (2, "none: no such directory"),
    "report plain --out=page.pdf": (2, "must end in .html or .htm"),
    "fingerprint": (2, "WORKDIR or --workdir is missing; see --help"),
    "fingerprint none": (2, "none: no such directory"),
    "fingerprint plain": (2, "no such checkpoint; available steps: none"),
    "env --nodevices": (0, f"progdist               {progdist.__version__}\n"),
    "env now": (2, "'now' is not a flag; flags are --name=value\n"),
}


@pytest.mark.parametrize("line", GUESSES)
def test_a_guess_is_answered_in_one_line_that_leads_on(line, call, place):
    before = sorted(place.iterdir())
    code, text = GUESSES[line]
    found, output, error = call(*shlex.split(line))
    assert found == code
    assert text in (error if code else output)
    if code:
        assert re.fullmatch("progdist: .+\n", error)
        assert output == ""
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("sample", "--workdir=x --num_steps=4 --num=3", "x --steps=4 -n 3"),
        ("sample", "--workdir=x --num_steps=4 --num=3", "-steps 4 -n=3 -workdir x"),
        ("sample", "x --label=cat,dog", "--label cat,dog -- x"),
        ("evaluate", "x --num_steps=4,8 --num=9", "x --steps 4,8 -n 9"),
        ("export", "x --num_steps=4 --out=e", "--out e x --steps=4"),
        ("report", "--workdir=x,y", "x y"),
        ("train", "x --config=digits --dry_run", "--config digits x -dry_run=true"),
        (
            "train",
            "x --config.seed=3 --config=digits",
            "x --config=digits -config.seed 3",
        ),
        ("train", "x --config=digits", "x --config=cifar10 --config=digits"),
        ("prepare", "--tfds_name=cifar10", "cifar10"),
    ],
)
def test_one_request_has_several_spellings(name, one, other):
    module = importlib.import_module(f"progdist.commands.{name}")
    values = [
        module.define_flags().parse([name, *words.split()], "")
        for words in (one, other)
    ]
    assert values[0] == values[1]


def test_a_file_of_flags_holds_the_configuration_too(call, place):
    (place / "flags.txt").write_text(
        "--config=digits:smoke\n--config.seed=5\n--dry_run"
    )
    code, output, error = call("train", "x", "--flagfile=flags.txt")
    assert (code, error) == (0, "")
    assert "38,452 parameters" in output
    code, _, error = call("train", "x", "--flagfile=none.txt")
    assert (code, error.count("\n")) == (2, 1)
