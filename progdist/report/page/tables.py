"""The table that a run prints at its end, for a terminal and for Markdown."""

from pathlib import Path

from rich.table import Table

from progdist.report.read.evaluations import Group, groups
from progdist.report.text import NONE, number_text
from progdist.workdir import layout
from progdist.workdir.rows import EvalRow, read_typed


def closing_table(workdir: str | Path, metric: str | None = None) -> Table:
    """Returns a metric by number of network calls, most first.

    The last column divides the student's value by that of the teacher's DDIM at its
    full number of steps N_0; 1 means that nothing was lost. All values are of equally
    many samples; the caption names the numbers of samples that were left out.

    Args:
      workdir: folder of the run.
      metric: the metric; None selects the first one in the file.

    Raises:
      FormatError: if a row is malformed.
    """
    rows = read_typed(EvalRow, Path(workdir, layout.EVALUATIONS))
    of_metric = [g for g in groups(rows) if metric in (None, g.kind.metric)]
    if not of_metric:
        return Table(title="No evaluations yet")
    return _table(of_metric[0], _left_out(of_metric))


def markdown_table(workdir: str | Path, metric: str | None = None) -> str:
    """Returns the content of `closing_table` in Markdown; ends in a newline."""
    table = closing_table(workdir, metric)
    if not table.columns:
        return f"{table.title}.\n"
    header = [str(column.header) for column in table.columns]
    cells = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    lines = [header, ["---:"] * len(header), *cells]
    caption = f"\n{table.caption}.\n" if table.caption else ""
    text = "".join(f"| {' | '.join(x)} |\n" for x in lines)
    return f"{table.title}.\n\n{text}{caption}"


def _table(group: Group, caption: str | None) -> Table:
    full, lines = group.full_steps, group.lines()
    columns = {
        "network calls": [str(line.num_steps) for line in lines],
        "student": [_text(line.student) for line in lines],
        "teacher DDIM": [_text(line.ddim) for line in lines],
        "teacher ancestral": [_text(line.ancestral) for line in lines],
        "best other solver": [_text(line.other, with_name=True) for line in lines],
        f"student / teacher at {full}" if full else "student / teacher": [
            number_text(line.ratio) for line in lines
        ],
    }
    if not any(line.other for line in lines):
        del columns["best other solver"]
    table = Table(title=_title(group), caption=caption)
    for name in columns:
        table.add_column(name, justify="right")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _title(group: Group) -> str:
    floor = f", floor {number_text(group.floor.value)}" if group.floor else ""
    samples = f"{group.kind.num_samples:,} samples"
    return f"{group.kind.metric} of {samples}, {group.direction}{floor}"


def _text(row: EvalRow | None, with_name: bool = False) -> str:
    if row is None:
        return NONE
    return number_text(row.value) + f" {row.sampler}" * with_name


def _left_out(of_metric: list[Group]) -> str | None:
    """Returns a caption that names the numbers of samples that are not shown."""
    shown = of_metric[0].kind
    same = [g.kind.num_samples for g in of_metric if g.kind.metric == shown.metric]
    others = sorted(set(same) - {shown.num_samples})
    counts = " and ".join(f"{count:,}" for count in others)
    return f"The report has the values of {counts} samples" if others else None
