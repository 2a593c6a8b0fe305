"""The command `progdist evaluate`, as `python -m progdist.evaluate`."""

import sys

from progdist.commands.evaluate import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.evaluate", *sys.argv[1:]])
