"""The command `progdist`, also as `python -m progdist`."""

import importlib
import sys

import progdist
from progdist.commands import COMMANDS
from progdist.errors import UsageError, did_you_mean, exit_with

# Other names that users try.
_LEADS = {
    "distil": "train",
    "distill": "train",
    "fit": "train",
    "resume": "train",
    "run": "train",
    "draw": "sample",
    "generate": "sample",
    "eval": "evaluate",
    "fid": "evaluate",
    "plot": "report",
    "import": "convert",
    "save": "export",
    "data": "prepare",
    "download": "prepare",
    "hash": "fingerprint",
    "info": "env",
}
_USAGE = """usage: progdist COMMAND [WORD ...] [--flag=value ...]

Trains a diffusion model, and distils it into one that samples in 1 to 8 network calls.

{commands}

`progdist COMMAND --help` explains a command. To see it work, in about a minute:

  progdist train runs/smoke --config=digits:smoke
  progdist sample runs/smoke --steps=1 --out=smoke.png
"""


def run(argv: list[str]) -> None:
    """Runs the command that the first word names."""
    name, *words = argv[1:] or ["--help"]
    if name == "help":
        name, words = (words[0], ["--help"]) if words else ("--help", [])
    if name in ("--help", "-h", "--helpfull"):
        rows = (f"  {name:12} {about}" for name, about in COMMANDS.items())
        print(_USAGE.format(commands="\n".join(rows)), end="")
        return
    if name in ("--version", "-V", "version"):
        print(f"progdist {progdist.__version__}")
        return
    if name not in COMMANDS:
        near = _LEADS.get(name)
        meant = f"; did you mean {near}?" if near else did_you_mean(name, COMMANDS)
        known = ", ".join(COMMANDS)
        raise UsageError(f"{name!r} is not a command; commands are {known}{meant}")
    command = importlib.import_module(f"progdist.commands.{name}")
    command.main([f"progdist {name}", *words])


def main() -> None:
    """Runs the command line of this process."""
    exit_with(run, sys.argv)


if __name__ == "__main__":
    main()
