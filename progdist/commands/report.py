"""Writes an HTML page, readable offline, about one or more runs.

  progdist report runs/digits
  progdist report runs/digits runs/wide --out=both.html
  progdist report runs/digits --watch=10
  progdist report runs/digits --figures=docs/images

Several workdirs are shown side by side. The page is WORKDIR/report.html, or report.html
in the current directory for several or for gs://BUCKET/PATH. An unfinished run is shown
as it stands. With --watch the page is rewritten at that interval when a run has written
something, and reloads itself in the browser, until all runs have ended or Ctrl-C. It
waits for runs that have not started yet, and exits at once on a stopped run: resume
that first. With --figures the figures of one run are drawn again, as they
stand, into a directory: NAME.png for light pages and NAME_dark.png for dark ones.

Exit codes: 0 done; 2 bad input, in one line; 4 the page could not be written; 128 + n
stopped by signal n.
"""

from collections.abc import Sequence
from pathlib import Path

from progdist.commands.parser import Flags
from progdist.errors import Error, UsageError, say, shown
from progdist.workdir import files, layout
from progdist.workdir.bucket import is_url
from progdist.workdir.copies import local, refresh


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir")
    flags.texts("workdir", "Directory of a run; several, separated by commas.")
    flags.text("out", "Path of the page.")
    flags.number("watch", "Rewrite the page at this interval in seconds.", low=1)
    flags.text("figures", "Directory of the figures of one run, light and dark.")
    return flags


def main(argv: list[str]) -> None:
    """Writes the page that the command line describes, and prints its path."""
    values = define_flags().parse(argv, __doc__, "workdir")
    workdirs = [local(path, _is_shown) for path in values["workdir"]]
    out = None if values["out"] is None else files.expand(values["out"])
    if out:
        _check_out(out)
    elif is_url(values["workdir"][0]):
        out = Path(layout.REPORT)

    figures = values["figures"] and files.expand(values["figures"])
    if figures:
        _check_figures(figures, workdirs, values["watch"])

    from progdist.report.figures.write import write_figures
    from progdist.report.page.page import write_page
    from progdist.report.page.watch import watch

    if values["watch"]:
        print(watch(workdirs, out, values["watch"], _note, _refresh))
    else:
        print(write_page(workdirs, out))
    if figures:
        print(*write_figures(workdirs[0], figures), sep="\n")


def _is_shown(name: str) -> bool:
    """Whether the page needs a file of a run in a bucket."""
    return layout.is_of_run(name) and not layout.tree_of(name)


def _refresh() -> None:
    """Copies what is new; only notes failures, as a laptop may go offline."""
    try:
        refresh()
    except Error as error:
        _note(str(error))


def _check_out(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")
    if out.is_dir():
        raise UsageError(f"--out={out}: is a directory")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out={out}: must end in .html or .htm")


def _check_figures(figures: Path, workdirs: Sequence[Path], watch: int | None) -> None:
    if watch or len(workdirs) > 1:
        other = "--watch" if watch else f"{len(workdirs)} workdirs"
        raise UsageError(f"--figures={figures}: takes one workdir, not {other}")
    if figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures={figures}: is not a directory")


def _note(message: str) -> None:
    say(f"progdist: {shown(message)}\n")
