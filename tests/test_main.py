"""The commands: what a mistake is answered with."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from progdist import fingerprint, main, report, sample
from progdist.commands import cluster, devices
from progdist.config import Config, load_preset
from progdist.errors import Error, InputError, UsageError
from tests.commands import answer

ROOT = Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py:smoke"
CLUSTER = [DIGITS, "--workdir=W", "--distributed"]
INCEPTION = [
    "--config.evaluation.features=inception",
    "--config.evaluation.inception_weights=none.pth",
]
FEW = ["--config.evaluation.num_samples=9", "--config.evaluation.grid_images=9"]
ONE = ["--config.data.name=folder", "--config.data.dir=W/one"]
SECOND = ["--num_processes=2", "--process_id=1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "WORKDIR or --workdir is missing"),
        (["--workdir=W"], "--config is missing"),
        ([DIGITS], "--workdir is missing"),
        ([DIGITS, "--workdir="], "--workdir is missing"),
        ([DIGITS, "--workdir=W[1]"], "w[1]: must not hold any of *?["),
        (
            ["--config=a:b/digits.py:smoke", "--workdir=W"],
            "--config=a:b/digits.py:smoke: no such file; --config=digits is a preset",
        ),
        ([DIGITS, "--workdir=~no-user/w"], "~no-user/w: there is no such home"),
        (
            [DIGITS, "--workdir=W", "--config.teacher=~no-user/w"],
            "~no-user/w: there is no such home",
        ),
        ([DIGITS, "--workdir=W", "stray"], "'stray' is not a flag"),
        ([DIGITS, "--wrkdir=W"], "--wrkdir: is not a flag; did you mean --workdir?"),
        (["--config=configs/none.py", "--workdir=W"], "none.py: no such file"),
        (
            ["--config=configs/digits.py:x", "--workdir=W"],
            "digits.py:x: the only variant is configs/digits.py:smoke",
        ),
        (
            [DIGITS, "--workdir=W", "--config.base.lr=1"],
            "config.base.lr: is not a field; did you mean config.base.learning_rate?",
        ),
        (
            [DIGITS, "--workdir=W", "--config.seed=x"],
            "--config.seed=x: must be a whole number",
        ),
        (
            [DIGITS, "--workdir=W", "--config.model.ch=8"],
            "--config.model.ch: is --config.net.ch now",
        ),
        (
            [DIGITS, "--workdir=W", "--config.model.output=x"],
            "--config.model.output: is --config.parameterization now",
        ),
        (
            [DIGITS, "--workdir=W", "--config.parameterization=w"],
            "'w' is not one of x, eps, v, both",
        ),
        ([DIGITS, "--workdir=W", "--config.seed=-1"], "config.seed=-1: must be"),
        ([DIGITS, "--workdir=/dev/null/w"], "--workdir=/dev/null/w: Not a directory"),
        (
            [DIGITS, "--workdir=W", "--config.teacher=W/t"],
            "w/t: no such file or directory",
        ),
        ([DIGITS, "--workdir=W", "--config.seed=99999999999"], "below 2**32"),
        ([DIGITS, "--workdir=W", "--process_id=1"], "needs --distributed"),
        ([*CLUSTER, "--process_id=1"], "--coordinator, --num_processes and --process"),
        ([*CLUSTER, "--coordinator=a", *SECOND], "--coordinator=a: must be HOST:PORT"),
        (
            [*CLUSTER, "--coordinator=a:1", "--num_processes=1", "--process_id=1"],
            "below",
        ),
        (
            [DIGITS, "--workdir=W", "--config.evaluation.metrics=fd,fid"],
            "--config.evaluation.metrics=fd,fid: 'fid' is not one of fd, kid, is, pr",
        ),
        (
            [DIGITS, "--workdir=W", "--config.evaluation.features=vgg"],
            "'vgg' is not one of pixels, inception, inception_tf1, squeezenet",
        ),
        (
            [DIGITS, "--workdir=W", "--config.evaluation.metrics=()"],
            "config.evaluation.metrics=(): must be names of fd, kid, is, pr, at least",
        ),
        (
            [DIGITS, "--workdir=W", "--config.evaluation.metrics=('fd', 'is')"],
            "config.evaluation.metrics=is: needs a network's config.evaluation.feat",
        ),
        (
            [DIGITS, "--workdir=W", *INCEPTION, "--config.evaluation.metrics=is"],
            "none.pth: No such file or directory",
        ),
        (
            [DIGITS, "--workdir=W", *INCEPTION, *FEW, "--config.evaluation.metrics=is"],
            "needs at least 10 images, not the 9 of config.evaluation.num_samples",
        ),
        (
            [DIGITS, "--workdir=W", *ONE, "--config.evaluation.metrics=fd,kid"],
            "evaluation.metrics=fd: needs at least 2 images, not the 1 of the data's t",
        ),
        (
            [DIGITS, "--workdir=W", "--config.data.name=mnist"],
            "data 'mnist': set data.dir",
        ),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    flags, message, capsys, monkeypatch, tmp_path
):
    report.save_png(tmp_path / "one/a.png", np.zeros((8, 8, 1), np.uint8))
    flags = [f.replace("=W/one", f"={tmp_path}/one") for f in flags]
    flags = [f.replace("=W", f"={tmp_path / 'w'}") for f in flags]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert message in error
    assert error.startswith("progdist: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_link_to_nothing_is_no_workdir(capsys, monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    flags = [DIGITS, f"--workdir={tmp_path / 'link'}"]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, error.count("\n")) == (2, 1)
    assert error.endswith("link: is a link to nothing\n")


@pytest.mark.parametrize("name", ["samples", "figures", "models", "tensorboard"])
def test_a_file_in_the_place_of_a_directory_is_named_at_the_start(
    name, capsys, monkeypatch, tmp_path
):
    (tmp_path / name).touch()
    flags = [DIGITS, f"--workdir={tmp_path}"]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    message = f"progdist: {tmp_path}/{name}: must be a directory; move away what is"
    assert (code, error.startswith(message)) == (2, True)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["eval.jsonl", "report.html"])
def test_a_directory_in_the_place_of_a_file_is_named_at_the_start(
    name, capsys, monkeypatch, tmp_path
):
    (tmp_path / name).mkdir()
    flags = [DIGITS, f"--workdir={tmp_path}"]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    message = f"progdist: {tmp_path}/{name}: must be a file; move away what is there\n"
    assert (code, error) == (2, message)


@pytest.mark.parametrize("name", ["", "figures"])
def test_a_directory_that_is_not_writable_is_named_at_the_start(
    name, capsys, monkeypatch, tmp_path
):
    path = tmp_path / name
    path.mkdir(exist_ok=True)
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda p, _: Path(p) != path)
    flags = [DIGITS, f"--workdir={tmp_path}"]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, error) == (2, f"progdist: {path}: must be writable\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "WORKDIR or --workdir is missing"),
        (["--workdir=W", "--out="], "--out is missing"),
        (["--workdir=W", "--num_steps=0", "--out=a.png"], "num_steps=0"),
        (
            ["--workdir=W", "--num_steps=1", "--out=a.docx"],
            "must be an image (.png, .jpg, .webp, .gif, .tiff or another image suf",
        ),
        (["--workdir=W", "--num_steps=1", "--out=no/a.png"], "there is no directory"),
        (["--workdir=W/no", "--out=a.png"], "no: no such file or directory"),
        (
            ["--workdir=W", "--num_steps=1", "--out=a.png"],
            "holds no model; pass a workdir, a directory of models/",
        ),
    ],
)
def test_a_mistake_in_sampling_is_one_line_and_code_2(
    flags, message, capsys, monkeypatch, tmp_path
):
    flags = [f.replace("=W", f"={tmp_path}") for f in flags]
    code, error = answer(sample, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "WORKDIR or --workdir is missing"),
        (["W", "V"], "'V' is not a flag"),
        (["W"], "checkpoints: no such checkpoint; available steps: none"),
        (["W/missing", "--step=3"], "missing: no such directory"),
        (["W", "--step=x"], "--step=x"),
    ],
)
def test_a_mistake_in_fingerprinting_is_one_line_and_code_2(
    words, message, capsys, monkeypatch, tmp_path
):
    words = [w.replace("W", str(tmp_path)) for w in words]
    code, error = answer(fingerprint, *words, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


COUNT = "--xla_force_host_platform_device_count"


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (["--distributed"], {}, "--distributed: coordinator_address should"),
        (
            ["--distributed"],
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            "--distributed: start it by srun, since SLURM_STEP_NODELIST, SLURM_LOCALID",
        ),
        (
            [],
            {"JAX_ENABLE_X64": "maybe"},
            "the environment of JAX: invalid truth value 'maybe' for environment 'JAX",
        ),
    ],
)
def test_the_module_answers_as_a_command(flags, environment, message, tmp_path):
    command = [sys.executable, "-m", "progdist.main", DIGITS]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'w'}", *flags],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.startswith(f"progdist: {message}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_host_without_an_address_is_worth_another_attempt(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(cluster, "RESOLVE_SECONDS", 0.0)
    flags = [DIGITS, f"--workdir={tmp_path / 'w'}", "--distributed", *SECOND]
    flags += ["--coordinator=no-such-host.invalid:1"]
    code, error = answer(main, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 5
    assert error.startswith("progdist: --coordinator=no-such-host.invalid:1: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (AssertionError(), 2, "no such device"),
        (RuntimeError("Unable to initialize backend 'tpu'"), 2, "Unable to initialize"),
        (RuntimeError("The TPU is already in use by process 7"), 5, "The TPU is"),
    ],
)
def test_a_device_that_cannot_be_opened_is_one_line(error, code, reason, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(Error, match=f"^JAX_PLATFORMS=tpu: {reason}") as raised:
        devices.prepare(Config())
    assert raised.value.exit_code == code


def test_processes_of_unequal_numbers_of_devices_are_refused(monkeypatch):
    three = [SimpleNamespace(process_index=i) for i in (0, 0, 1)]
    monkeypatch.setattr(jax, "devices", lambda: three)
    with pytest.raises(UsageError, match="not 2 on process 0, 1 on process 1"):
        devices.prepare(Config())


def test_a_count_of_devices_is_given_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{COUNT}=4")
    devices.prepare(Config())
    with pytest.raises(UsageError, match=f"cpu_devices=2: XLA_FLAGS has {COUNT}"):
        devices.prepare(Config(cpu_devices=2))


def test_without_a_home_the_cache_needs_a_place(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "~no-user")
    with pytest.raises(InputError, match="XDG_CACHE_HOME: must be set"):
        devices.prepare(Config())


NOISE = """
import jax
from progdist import config
from progdist.commands import devices
from progdist.sampling.draw import image_noise
devices.prepare(config.Config())
noise = image_noise(jax.random.key(0), jax.numpy.arange(4), (8, 8, 1))
print(jax.nn.softmax(noise * 2).tobytes().hex(), jax.numpy.sqrt(-noise[0, 0]))
"""
UNWANTED = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_DISABLE_JIT": "1",
    "JAX_DEBUG_NANS": "1",
}


def test_no_variable_of_jax_changes_what_is_drawn():
    drawn = [
        subprocess.run(
            [sys.executable, "-c", NOISE],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        for variables in ({}, UNWANTED)
    ]
    assert drawn[0].stdout == drawn[1].stdout
    assert drawn[0].stderr == ""
    said = drawn[1].stderr.splitlines()
    text = "progdist: {} is ignored, since results depend on it"
    assert sorted(said) == sorted(map(text.format, UNWANTED))


def test_devices_that_are_open_are_used_as_they_are():
    """As in a notebook; here the tests have opened eight."""
    settings = Config()
    devices.prepare(settings)
    assert jax.device_count() == 8
    settings.cpu_devices = 4
    with pytest.raises(UsageError, match=r"cpu_devices=4: JAX runs .* on 8 devices"):
        devices.prepare(settings)


def test_a_cpu_is_split_so_that_every_batch_divides(monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: 6)
    config = load_preset("digits")  # batches of 64 and 256
    assert devices._devices_of(config, 1) == 4
    assert devices._devices_of(config, 2) == 2  # a process
    config.base.clip_groups = 2
    assert devices._devices_of(config, 1) == 4
    config.base.micro_batch_size = 2
    assert devices._devices_of(config, 1) == 2
    config.base.batch_size, config.base.clip_groups = 96, 3
    assert devices._devices_of(config, 1) == 1
    config.base.batch_size, config.base.clip_groups = 30, 1
    assert devices._devices_of(config, 1) == 1
