"""The command `progdist export`, as `python -m progdist.export`."""

import sys

from progdist.commands.export import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.export", *sys.argv[1:]])
