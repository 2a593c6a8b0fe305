"""Rows of the JSON-lines files that a run appends to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist.errors import InputError

_DEEPEST = 20  # levels; what is nested further cannot be shown
_BEYOND_EXACT = 2**53  # whole numbers of which a float may be another


class RowError(InputError):
    """A file of JSON is malformed; the message names it, in one line."""


class Evaluation(NamedTuple):
    """One row of `eval.jsonl`: a distance of num_samples images to the data."""

    phase: int  # of the model
    role: str  # "student", or "teacher": the undistilled model of phase 0
    sampler: str
    num_steps: int
    trained_steps: int  # those that the model was made for; N_0 of the teacher
    metric: str
    value: float
    num_samples: int


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file to which a run may be writing.

    A last line without its newline is dropped unless it is complete: the writer
    was interrupted, or is at it now. A file that is not there yet has no rows.

    Raises:
      RowError: if any other line is not a JSON object; names file and line.
      FileNotFoundError: if the folder of the file does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if not path.exists():
        return []
    # Bytes, since an interrupted write can also end inside a character.
    *lines, tail = path.read_bytes().split(b"\n")
    rows = [
        parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return rows + _parse_tail(tail)


def require(row: dict[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    """Returns the row if it has all the names; path is for the message.

    Raises:
      RowError: if a name is missing.
    """
    missing = [name for name in names if name not in row]
    if missing:
        raise RowError(f"{path}: a row lacks {', '.join(missing)}: {row!r:.200}")
    return row


def parse(text: bytes, where: str) -> dict[str, Any]:
    """Reads a JSON object; `where` is for the message.

    Raises:
      RowError: if it is none.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise RowError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise RowError(f"{where}: not JSON: {error}") from None
    # Counted first, which costs nothing: hardly a row has so many.
    if text.count(b"[") + text.count(b"{") > _DEEPEST and _is_deep(found):
        raise RowError(f"{where}: nested too deeply")
    if not isinstance(found, dict):
        raise RowError(f"{where}: not a JSON object: {found!r:.60}")
    return found


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; NaN is one, true is not."""
    return isinstance(value, float) or is_whole(value)


def is_whole(value: Any, least: int | None = None) -> bool:
    """Whether it is a whole number, not less than the least, that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return abs(value) < _BEYOND_EXACT and (least is None or value >= least)


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for found in inner for v in found if isinstance(v, dict | list)]
    return bool(level)


def _parse_tail(line: bytes) -> list[dict[str, Any]]:
    try:
        return [parse(line, "last line")]
    except RowError:
        return []
