"""Keeps the page about runs up to date until they have ended."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from progdist.errors import InputError
from progdist.report.page.page import check_distinct, page_path, write_page
from progdist.report.read.run import files_of, is_run
from progdist.workdir.lock import Owner

_Marks = dict[Path, tuple[int, int, int]]


def watch(
    workdirs: Sequence[Path],
    out: Path | None,
    seconds: int,
    note: Callable[[str], None],
    refresh: Callable[[], None] = lambda: None,
) -> Path:
    """Writes the page whenever a run has written something; returns its path.

    Waits for runs that have not started yet, and says so. The page reloads itself; its
    last version, written at the end or on Ctrl-C, does not.

    Args:
      workdirs: as for `write_page`.
      out: as for `write_page`.
      seconds: interval between checks of the files, and between reloads.
      note: shows a line to the user.
      refresh: called before the files are read, to copy those in a bucket.

    Raises:
      InputError: if a workdir occurs twice, or a file is malformed at the end. Until
        then malformed files are read again, since they may be incomplete.
      OSError: if the page cannot be written.
    """
    check_distinct(workdirs)
    for path in workdirs:
        if not is_run(path):  # not started, or misspelt
            note(f"waiting for {path}")
    owners = {path: Owner(path) for path in workdirs}
    page, latest = _Page(page_path(workdirs, out), note), None
    try:
        # Checked before the files are read, so that they hold the owner's last writes.
        while any(not is_run(path) or owners[path].is_alive() for path in workdirs):
            there = [path for path in workdirs if is_run(path)]
            marks = _marks(there)
            if there and marks != latest and page.try_to_write(there, seconds):
                latest = marks
            time.sleep(seconds)
            refresh()
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(InputError, OSError):
            page.write([path for path in workdirs if is_run(path)])
        raise
    return page.write(workdirs)


class _Page:
    """The page, and the last error in writing it."""

    def __init__(self, out: Path, note: Callable[[str], None]) -> None:
        self._out, self._note, self._noted = out, note, ""

    def write(self, workdirs: Sequence[Path], refresh: int = 0) -> Path:
        return write_page(workdirs, self._out, refresh)

    def try_to_write(self, workdirs: Sequence[Path], refresh: int) -> bool:
        try:
            self.write(workdirs, refresh)
        except (InputError, FileNotFoundError) as error:
            if str(error) != self._noted:
                self._noted = str(error)
                self._note(self._noted)
            return False
        self._noted = ""
        return True


def _marks(workdirs: Sequence[Path]) -> _Marks:
    """Returns time, size and inode of each file, to detect changes."""
    marks: _Marks = {}
    for path in (file for workdir in workdirs for file in files_of(workdir)):
        with contextlib.suppress(OSError):  # it does not exist
            status = path.stat()
            marks[path] = status.st_mtime_ns, status.st_size, status.st_ino
    return marks
