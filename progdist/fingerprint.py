"""The command `progdist fingerprint`, as `python -m progdist.fingerprint`."""

import sys

from progdist.commands.fingerprint import main
from progdist.errors import exit_with

if __name__ == "__main__":
    exit_with(main, ["python -m progdist.fingerprint", *sys.argv[1:]])
