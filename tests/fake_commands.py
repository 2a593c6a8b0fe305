"""Commands of a cluster that is not there: they write down how they were called."""

import json
import os
import sys
from pathlib import Path

_BODY = """#!{python} -SE
import json, os, sys, time
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
        path.write_text(
            _BODY.format(python=sys.executable, calls=calls, name=name, body=body)
        )
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


def calls(place: Path) -> list[list[str]]:
    """Returns the calls so far, each with the name of the command in front."""
    path = place / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]
