"""Rows of the JSON-lines files that a run appends to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Evaluation(NamedTuple):
    """One row of `eval.jsonl`: a distance of num_samples images to the data."""

    phase: int
    role: str  # "student", or "teacher": the undistilled model of phase 0
    sampler: str  # "ddim" or "ancestral"
    num_steps: int
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


def read_evaluations(
    workdir: str | Path, metric: str | None = None
) -> list[Evaluation]:
    """Reads `eval.jsonl`, one row per role, sampler and number of steps.

    Where a resumed run has measured something twice, the later row counts. Rows of
    `progdist.evaluate`, which name their features, count where a metric is asked for
    that the run has not measured itself: a student in its own number of steps, and of
    several gammas the best.

    Args:
      workdir: folder of the run.
      metric: the distance to keep; None keeps the one the file begins with.

    Raises:
      ValueError: if a row lacks one of the fields of `Evaluation`.
    """
    path = Path(workdir) / "eval.jsonl"
    rows = read_rows(path)
    own = [_evaluation(row, path) for row in rows if "features" not in row]
    if metric is None and own:
        metric = own[0].metric
    measured = [row for row in own if row.metric == metric]
    if not measured:
        later = [row for row in rows if "features" in row and _of_its_own_steps(row)]
        measured = [_evaluation(row, path) for row in later if row["metric"] == metric]
        # What comes last is kept: of equal keys the least.
        measured.sort(key=lambda row: -row.value)
    latest = {(row.role, row.sampler, row.num_steps): row for row in measured}
    return list(latest.values())


def _of_its_own_steps(row: dict[str, Any]) -> bool:
    return row["role"] == "teacher" or row["num_steps"] == row["trained_steps"]


def full_steps(evaluations: Sequence[Evaluation]) -> int | None:
    """Returns N_0, the number of steps at which phase 0 was measured with DDIM."""
    base = [e.num_steps for e in evaluations if e.phase == 0 and e.sampler == "ddim"]
    return max(base, default=None)


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


def _evaluation(row: dict[str, Any], path: Path) -> Evaluation:
    row = require(row, Evaluation._fields, path)
    return Evaluation(**{name: row[name] for name in Evaluation._fields})
