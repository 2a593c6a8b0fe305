"""The table that a run prints at its end, for a terminal and for Markdown."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from progdist.report.read.evaluations import direction, full_steps, read_evaluations
from progdist.report.text import number_text
from progdist.workdir.rows import EvalRow


def closing_table(workdir: str | Path, metric: str | None = None) -> Table:
    """Returns a metric by number of network calls, most first.

    The last column divides the student's value by that of the teacher's DDIM at its
    full number of steps N_0; 1 means that nothing was lost.
    """
    rows = read_evaluations(workdir, metric)
    if not rows:
        return Table(title="No evaluations yet")
    values = {(r.role, r.sampler, r.num_steps): r.value for r in rows}
    full = full_steps(rows)
    full_value = values.get(("teacher", "ddim", full)) if full else None
    table = Table(title=_title(rows))
    for name in (
        "network calls",
        "student",
        "teacher DDIM",
        "teacher ancestral",
        f"student / teacher at {full}" if full else "student / teacher",
    ):
        table.add_column(name, justify="right")
    for n in sorted({r.num_steps for r in rows}, reverse=True):
        student = values.get(("student", "ddim", n))
        ratio = student / full_value if student is not None and full_value else None
        teacher = [values.get(("teacher", s, n)) for s in ("ddim", "ancestral")]
        table.add_row(str(n), *map(number_text, (student, *teacher, ratio)))
    return table


def markdown_table(workdir: str | Path, metric: str | None = None) -> str:
    """Returns the content of `closing_table` in Markdown; ends in a newline."""
    table = closing_table(workdir, metric)
    if not table.columns:
        return f"{table.title}.\n"
    header = [str(column.header) for column in table.columns]
    cells = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    lines = [header, ["---:"] * len(header), *cells]
    return f"{table.title}.\n\n" + "".join(f"| {' | '.join(x)} |\n" for x in lines)


def _title(rows: Sequence[EvalRow]) -> str:
    counts = sorted({r.num_samples for r in rows})
    samples = " or ".join(f"{count:,}" for count in counts)
    metric = rows[0].metric
    return f"{metric} of {samples} samples, {direction(metric)}"
