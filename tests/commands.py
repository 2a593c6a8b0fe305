"""Commands, run in the process of the test."""

import sys
from pathlib import Path

import pytest

from progdist import cli
from progdist.errors import exit_with

ROOT = Path(__file__).parents[1]


def answer(command, *flags, capsys, monkeypatch):
    """Exit code and standard error of a command, run in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "prepare_devices", lambda *_: None)  # done already
    argv = ["progdist", *flags]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
    with pytest.raises(SystemExit) as ended:
        exit_with(command.main, argv)
    return ended.value.code, capsys.readouterr().err
