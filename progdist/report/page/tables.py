"""The table that closes a run, for a terminal and for Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from progdist.report.read.measures import direction, full_steps, read_evaluations
from progdist.report.text import number_text
from progdist.workdir.rows import EvalRow

_NOTHING = "No evaluations yet"


class _Closing(NamedTuple):
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def closing_table(workdir: str | Path, metric: str | None = None) -> Table:
    """Distances by number of network calls, most first, for a terminal.

    The last column divides the student by the teacher's DDIM at its full number
    of steps N_0: 1 means that nothing was lost.
    """
    title, header, rows = _closing(read_evaluations(workdir, metric))
    table = Table(title=title)
    for name in header:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(workdir: str | Path, metric: str | None = None) -> str:
    """The content of `closing_table` in Markdown; ends in a newline."""
    title, header, rows = _closing(read_evaluations(workdir, metric))
    if not rows:
        return f"{title}.\n"
    lines = [header, ("---:",) * len(header), *rows]
    return f"{title}.\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _closing(evaluations: Sequence[EvalRow]) -> _Closing:
    if not evaluations:
        return _Closing(_NOTHING, (), [])
    values = {(e.role, e.sampler, e.num_steps): e.value for e in evaluations}
    full = full_steps(evaluations)
    full_value = values.get(("teacher", "ddim", full)) if full else None
    header = (
        "network calls",
        "student",
        "teacher DDIM",
        "teacher ancestral",
        f"student / teacher at {full}" if full else "student / teacher",
    )
    rows = []
    for n in sorted({e.num_steps for e in evaluations}, reverse=True):
        student = values.get(("student", "ddim", n))
        ratio = student / full_value if student is not None and full_value else None
        teacher = [values.get(("teacher", s, n)) for s in ("ddim", "ancestral")]
        rows.append((str(n), *map(number_text, (student, *teacher, ratio))))
    return _Closing(_title(evaluations), header, rows)


def _title(evaluations: Sequence[EvalRow]) -> str:
    counts = sorted({e.num_samples for e in evaluations})
    samples = " or ".join(f"{count:,}" for count in counts)
    metric = evaluations[0].metric
    return f"{metric} of {samples} samples, {direction(metric)}"
