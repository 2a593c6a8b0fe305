"""The command `progdist sample`, as `python -m progdist.sample`."""

import sys

from progdist.commands.sample import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.sample", *sys.argv[1:]])
