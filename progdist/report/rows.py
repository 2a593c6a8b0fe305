"""Rows of the JSON-lines files that a run appends to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


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
      ValueError: if any other line is not a JSON object; names file and line.
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
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return rows + _parse_tail(tail)


def require(row: dict[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    """Returns the row if it has all the names; path is for the message.

    Raises:
      ValueError: if a name is missing.
    """
    missing = [name for name in names if name not in row]
    if missing:
        raise ValueError(f"{path}: a row lacks {', '.join(missing)}: {row}")
    return row


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object: {row!r:.60}")
    return row


def _parse_tail(line: bytes) -> list[dict[str, Any]]:
    try:
        return [_parse(line, "last line")]
    except ValueError:
        return []
