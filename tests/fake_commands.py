"""Commands of a cluster that is not there: they write down how they were called."""

import json
import os
import sys
from pathlib import Path

from tests.waiting import text_of, write_whole

_BODY = """#!{python} -SE
import json, os, sys, time
def write_whole(path, text):
    part = f"{{path}}.{{os.getpid()}}.part"
    with open(part, "w") as file: file.write(text)
    os.replace(part, path)
with open({calls!r}, "a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
words = sys.argv[1:]
{body}
"""


def make(place: Path, **bodies: str) -> dict[str, str]:
    """Makes commands, each with a body in Python; returns an environment with them."""
    (place / "bin").mkdir(exist_ok=True)
    for name, body in bodies.items():
        path, calls = place / "bin" / name, str(place / "calls")
        text = _BODY.format(python=sys.executable, calls=calls, name=name, body=body)
        write_whole(path, text, 0o755)
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


def calls(place: Path) -> list[list[str]]:
    """Returns the calls so far, each with the name of the command in front."""
    lines = text_of(place / "calls").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
