"""`progdist convert`, run in the process of the test."""

import progdist
from progdist.commands import convert, devices
from tests import commands


def flags(facts):
    """The command line's words for facts."""
    return [
        f"--{'' if value is not False else 'no'}{name}"
        + ("" if isinstance(value, bool) else f"={value}")
        for name, value in facts.items()
    ]


def converted(source, out, facts, monkeypatch):
    """The model that the command made of a source, and opened."""
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    convert.main(["progdist", str(source), f"--out={out}", *flags(facts)])
    return progdist.load(out)


def refusal(source, out, capsys, monkeypatch, **facts):
    """The line with which the command refuses a source."""
    words = [str(source), f"--out={out}", *flags(facts)]
    code, said = commands.answer(
        convert, *words, capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2, said
    assert said.startswith("progdist: ")
    assert said.count("\n") == 1
    assert not out.exists()
    return said.removeprefix("progdist: ").rstrip("\n")
