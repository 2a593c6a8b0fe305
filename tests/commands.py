"""Commands, run in the process of the test."""

from pathlib import Path

import pytest

from progdist.commands import devices
from progdist.errors import exit_with

ROOT = Path(__file__).parents[1]


def answer(command, *flags, capsys, monkeypatch):
    """Exit code and standard error of a command, run in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    with pytest.raises(SystemExit) as ended:
        exit_with(command.main, ["progdist", *flags])
    return ended.value.code, capsys.readouterr().err
