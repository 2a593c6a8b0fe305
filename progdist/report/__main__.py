"""Writes one HTML page, readable offline, about one or several runs.

  python -m progdist.report WORKDIR... [--out=FILE] [--watch=SECONDS]

Several workdirs are shown side by side. The page is WORKDIR/report.html, or report.html
in the current directory for several. An unfinished run is shown as it stands. With
--watch the page is rewritten at that interval when a run has written something, and
reloads itself in the browser, until all runs have ended or Ctrl-C. The watcher waits
for runs that have not started yet. A stopped run counts as ended, so resume it before
you start its watcher. Exit codes: 0 done; 2 bad input, in one line; 4 the page could
not be written; 128 + n ended by signal n.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from progdist.errors import UsageError, exit_with
from progdist.report.page.page import write_page
from progdist.report.page.watch import watch
from progdist.workdir import files


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises UsageError, instead of printing the usage."""
        raise UsageError(f"{message}; see --help")


def main(argv: list[str]) -> None:
    """Writes the page that the command line describes, and prints its path."""
    parser = _Parser(
        "python -m progdist.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+")
    parser.add_argument("--out", metavar="FILE", help="path of the page")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        help="rewrite the page until the runs end",
    )
    flags = parser.parse_args(argv[1:])
    workdirs = [files.expand(path) for path in flags.workdirs]
    out = None if flags.out is None else files.expand(flags.out)
    if out:
        _check_out(out)
    if flags.watch:
        print(watch(workdirs, out, flags.watch, _note))
    else:
        print(write_page(workdirs, out))


def _check_out(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")
    if out.is_dir():
        raise UsageError(f"--out={out}: is a directory")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out={out}: must end in .html or .htm")


def _seconds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds, 1 or more"
        )
    return int(text)


def _note(message: str) -> None:
    print(f"progdist: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main, sys.argv)
