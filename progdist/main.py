"""The command `progdist train`, as `python -m progdist.main`."""

import sys

from progdist.commands.train import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.main", *sys.argv[1:]])
