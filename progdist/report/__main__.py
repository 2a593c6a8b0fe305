"""The command `progdist report`, as `python -m progdist.report`."""

import sys

from progdist.commands.report import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.report", *sys.argv[1:]])
