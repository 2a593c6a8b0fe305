"""Writes what runs have come to as one HTML page that needs no network.

  python -m progdist.report WORKDIR... [--out=FILE] [--watch=SECONDS]

Several workdirs stand side by side. The page is WORKDIR/report.html, or report.html in
the current directory where there are several. A run may be going on: its page shows
what there is. With --watch it is written again every so many seconds, where a run has
written something, and reloads itself in the browser, until all runs have ended or
Ctrl-C. A run that is not there yet is waited for; one that has stopped counts as ended:
where it is to go on, start it before its watcher. Exit codes: 0 done; 2 bad input, in
one line; 4 the page could not be written; 130, 143 ended by Ctrl-C or SIGTERM.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from progdist.report.page.page import write_page
from progdist.report.page.watch import watch


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Ends with one line."""
        _fail(f"{message}; see --help", 2)


def main(argv: list[str]) -> None:
    """Writes the page that the command line describes, and prints its path."""
    parser = _Parser(
        "python -m progdist.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, help="path of the page")
    parser.add_argument(
        "--watch", metavar="SECONDS", type=_seconds, help="go on until the runs end"
    )
    flags = parser.parse_args(argv[1:])
    workdirs = [path.expanduser() for path in flags.workdirs]
    out = flags.out.expanduser() if flags.out else None
    if out and not out.absolute().parent.is_dir():
        parser.error(f"--out={out}: there is no directory {out.parent}")
    if out and out.is_dir():
        parser.error(f"--out={out}: is a directory")
    if out and out.suffix.lower() not in (".html", ".htm"):
        parser.error(f"--out={out}: must end in .html or .htm")
    try:
        print(
            _watch(workdirs, out, flags.watch)
            if flags.watch
            else write_page(workdirs, out)
        )
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except ValueError as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 4)


def _watch(workdirs: list[Path], out: Path | None, seconds: int) -> Path:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return watch(workdirs, out, seconds, _say)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds, 1 or more"
        )
    return int(text)


def _say(message: str) -> None:
    print(f"progdist: {message}", file=sys.stderr, flush=True)


def _fail(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv)
