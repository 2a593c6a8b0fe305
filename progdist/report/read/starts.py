"""The starts of a run, and how each ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from progdist.workdir.rows import StartRow

_ENDS = {
    None: "running, or killed",
    "Interrupted": "stopped, saved",
    "NonFiniteError": "diverged",
}


class Start(NamedTuple):
    """One start of a run, and how it ended."""

    row: StartRow
    end: str | None  # "done", the error that stopped it, or None if unknown
    seconds: float | None

    @property
    def begin(self) -> float | None:
        """Time of the start, in seconds of the Unix epoch."""
        return _timestamp(self.row)

    @property
    def how(self) -> str:
        """End of the start, in words."""
        return _ENDS.get(self.end, self.end or "")


def starts_of(
    rows: Sequence[StartRow], last_change: float | None = None
) -> list[Start]:
    """Joins the rows of starts and ends.

    The last start has no end if it is still running or was killed; it lasted at least
    until its last write, if that is known.
    """
    starts: list[Start] = []
    for row in rows:
        if row.end is None:
            starts = [s if s.end else s._replace(end="killed") for s in starts]
            starts.append(Start(row, None, None))
        elif starts:
            seconds = _seconds(starts[-1].row, _timestamp(row))
            starts[-1] = Start(starts[-1].row, row.end, seconds)
    if starts and starts[-1].end is None:
        seconds = _seconds(starts[-1].row, last_change)
        starts[-1] = starts[-1]._replace(seconds=seconds)
    return starts


def _seconds(start: StartRow, end: float | None) -> float | None:
    begin = _timestamp(start)
    return None if begin is None or end is None else max(0.0, end - begin)


def _timestamp(row: StartRow) -> float | None:
    try:
        return datetime.fromisoformat(row.time or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None
