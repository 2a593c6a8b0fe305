"""The frame of a command: its streams, its signals, its exit code."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from progdist.checkpoint import SaveError
from progdist.errors import exit_with

COMMAND = """
import sys, time
from pathlib import Path
from progdist.errors import exit_with
from progdist.workdir import files
from rich.console import Console
import warnings

def main(argv):
    {body}

exit_with(main, sys.argv)
"""
SPEAKS = """
    for _ in range(100):
        print("progress", file=sys.stderr, flush=True)
        Console(stderr=True, force_terminal=True).print("a bar")
        warnings.warn("a warning")
        sys.stderr.write("x" * 10000)
    Path(argv[1]).touch()
"""
PRINTS = """
    print("a result " * 10000)
    Path(argv[1]).touch()
"""
WRITES = """
    with files.whole_directory(Path(argv[1])) as part:
        (part / "a").touch()
        print("writing", flush=True)
        time.sleep(60)
"""


def run(body, path, redirections):
    """Exit code of the command, with redirections as in a shell; its standard error."""
    shell = f'"$@" {redirections}'
    code = COMMAND.format(body=body.strip())
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "redirections",
    [
        "> >(exit) 2>&1",
        "2> >(head -1 >/dev/null)",
        ">&- 2>&-",
        "2>&-",
        "> /dev/full 2>&1",
        "2> /dev/full",
    ],
)
def test_a_command_outlives_the_readers_of_its_progress(redirections, tmp_path):
    assert run(SPEAKS, tmp_path / "done", redirections)[0] == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("redirections", "code", "error"),
    [
        ("> >(exit)", 0, ""),
        (">&-", 0, ""),
        ("> /dev/full", 4, "progdist: standard output: No space left on device\n"),
    ],
)
def test_a_result_that_is_lost_is_told_unless_nobody_reads(
    redirections, code, error, tmp_path
):
    assert run(PRINTS, tmp_path / "done", redirections) == (code, error)
    assert (tmp_path / "done").exists()


def test_what_is_printed_arrives(tmp_path):
    text = tmp_path / "text"
    assert run("print('→ 1'); print('→ 2', file=sys.stderr)", text, f"> {text}") == (
        0,
        "→ 2\n",
    )
    assert text.read_text() == "→ 1\n"


def test_a_save_that_lost_a_process_is_worth_another_attempt(monkeypatch, capsys):
    """A launcher restarts after 5, and not after 4."""

    def save(argv):
        try:
            try:
                raise jax.errors.JaxRuntimeError(argv[0])
            except jax.errors.JaxRuntimeError as error:
                raise ExceptionGroup("saving", [OSError("x"), error]) from None
        except ExceptionGroup as error:
            raise SaveError("could not be written") from error

    def code_of(reason):
        with pytest.raises(SystemExit) as end:
            exit_with(save, [reason])
        return end.value.code

    lost = "UNAVAILABLE: The following tasks are unhealthy"
    assert code_of(lost) == 4  # alone
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert code_of(lost) == 5
    assert code_of("RESOURCE_EXHAUSTED: Out of memory") == 4
    assert capsys.readouterr().err == "progdist: could not be written\n" * 3


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_signal_leaves_no_unfinished_file(signum, tmp_path):
    code = COMMAND.format(body=WRITES.strip())
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "writing\n"
        assert os.listdir(tmp_path)
        process.send_signal(signum)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    said = "interrupted" if signum == signal.SIGINT else f"stopped by {signum.name}"
    assert error == f"progdist: {said}\n"
    assert os.listdir(tmp_path) == []


SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(10)
except BaseException:
    pass
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_within_an_import_ends_the_command(name, code, tmp_path):
    """Imports may swallow any exception, as those of JAX do."""
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(name=name))
    program = (
        "import importlib, sys; from progdist.errors import exit_with; "
        "exit_with(lambda argv: importlib.import_module('swallows'), sys.argv)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("progdist: ")
    assert len(done.stderr.splitlines()) == 1
