"""A metric against the cost of an image, for students and their undistilled teacher."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from progdist.report.figures.style import (
    ANCESTRAL,
    FONT_SIZE,
    GREY,
    INK,
    OTHERS,
    PAPER,
    STUDENT,
    TEACHER,
    WIDTH,
    bare_axes,
    log_ticks,
    make_figure,
    save_figure,
)
from progdist.report.read import LEAST, MOST
from progdist.report.read.evaluations import Group, Line, groups, is_higher_better
from progdist.report.text import plain, steps_text
from progdist.workdir import layout
from progdist.workdir.rows import EvalRow, read_typed

Cost = Literal["calls", "milliseconds"]

COSTS: dict[Cost, str] = {
    "calls": "network calls per image",
    "milliseconds": "milliseconds per image",
}
_RUN_COLOURS = (STUDENT, TEACHER, ANCESTRAL, *OTHERS)
_DASHED, _DOTTED = (0, (4, 3)), (0, (1, 2))
# Inches: heights of the axes and a letter, length of a line sample, legend row.
_HEIGHT, _LETTER, _SAMPLE, _ROW = 3.3, 0.085, 0.6, 0.23


class _Line(NamedTuple):
    name: str
    colour: str
    marker: str
    rows: list[EvalRow]  # one for each number of steps
    dashes: str | tuple[float, tuple[float, ...]] = "-"
    inside: str | None = None  # colour inside the marker; by default the line's


class _Level(NamedTuple):
    name: str
    value: float
    dashes: tuple[float, tuple[float, ...]]


def write_quality(
    workdir: str | Path, folder: Path | None = None, metric: str | None = None
) -> Path | None:
    """Writes `figures/quality.png`: a metric against network calls, and against time.

    Args:
      workdir: folder of the run.
      folder: folder of the figure; by default that of the run.
      metric: the metric to draw; None selects the first one in `eval.jsonl`.
    """
    rows = read_typed(EvalRow, Path(workdir, layout.EVALUATIONS))
    for group in groups(rows):
        if metric in (None, group.kind.metric):
            figure = quality_figure({"": group}, known_costs([group]))
            path = folder or Path(workdir, layout.FIGURES)
            return save_figure(path / "quality.png", figure) if figure else None
    return None


def known_costs(of_runs: Iterable[Group | None]) -> list[Cost]:
    """Returns the costs that the rows have: not all have the time of sampling."""
    timed = any(row.milliseconds for g in of_runs if g for row in g.rows)
    return ["calls", "milliseconds"] if timed else ["calls"]


def quality_figure(
    of_runs: Mapping[str, Group | None], costs: Sequence[Cost] = ("calls",)
) -> Figure | None:
    """Draws the values of one kind against each cost; None if none can be drawn.

    Of one run it shows every column of the table, and as levels the teacher at its full
    number of steps and the floor. Of several runs, each in a colour of its own, it
    shows student and teacher with DDIM, and the floor.

    Args:
      of_runs: the values by name of the run; None for a run without any.
      costs: the horizontal axis of each panel.
    """
    of_kind, by_run = [group for group in of_runs.values() if group], len(of_runs) > 1
    group, is_log = of_kind[0], _is_log(of_kind)
    lines = _lines_of_runs(of_runs) if by_run else _lines_of_run(group)
    lines = [_drawable(line, is_log) for line in lines]
    lines = [line for line in lines if line.rows]
    if not lines:
        return None
    levels = [
        level for level in _levels(group, by_run) if level.value > 0 or not is_log
    ]
    figure = make_figure(WIDTH * (1 if len(costs) == 1 else 1.82), _HEIGHT)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        axes.set_yscale("log" if is_log else "linear")
        _draw(axes, lines, levels, cost)
    panels[0].set_title(_title(group), loc="left", fontsize=FONT_SIZE, color=INK)
    _draw_legend(figure, panels[0])
    return figure


def _is_log(of_runs: Iterable[Group]) -> bool:
    """Whether the axis is logarithmic: for distances, unless some are negative."""
    return not any(
        row.value < 0 or is_higher_better(row.metric)
        for group in of_runs
        for row in group.rows
    )


def _lines_of_run(group: Group) -> list[_Line]:
    lines = group.lines()
    other, student_other = _column(lines, "other"), _column(lines, "student_other")
    solvers = f"student, {_solvers(student_other)}"
    return [
        _Line("student", STUDENT, "o", _column(lines, "student")),
        _Line("teacher, DDIM", TEACHER, "s", _column(lines, "ddim")),
        _Line("teacher, ancestral", ANCESTRAL, "^", _column(lines, "ancestral")),
        _Line(f"teacher, {_solvers(other)}", OTHERS[0], "D", other),
        _Line(solvers, STUDENT, "o", student_other, _DASHED, PAPER),
    ]


def _lines_of_runs(of_runs: Mapping[str, Group | None]) -> list[_Line]:
    found = []
    for index, (name, group) in enumerate(of_runs.items()):
        colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
        lines = group.lines() if group else []
        teacher = f"{plain(name)}, teacher", colour, "s", _column(lines, "ddim")
        found += [
            _Line(plain(name), colour, "o", _column(lines, "student")),
            _Line(*teacher, _DASHED),
        ]
    return found


def _column(lines: Iterable[Line], name: str) -> list[EvalRow]:
    return [row for line in lines if (row := getattr(line, name))]


def _solvers(rows: Sequence[EvalRow]) -> str:
    names = {row.sampler for row in rows}
    return plain(names.pop()) if len(names) == 1 else "best other solver"


def _levels(group: Group, by_run: bool) -> list[_Level]:
    levels = []
    if not by_run and group.teacher is not None:
        name = f"teacher at {steps_text(group.full_steps or 0)}"
        levels.append(_Level(name, group.teacher, _DASHED))
    if group.floor:
        levels.append(_Level("real images (floor)", group.floor.value, _DOTTED))
    return levels


def _drawable(line: _Line, is_log: bool) -> _Line:
    """Leaves out the values that the axis cannot show."""
    least = LEAST if is_log else -MOST
    return line._replace(rows=[r for r in line.rows if least < r.value < MOST])


def _draw(
    axes: Axes, lines: Sequence[_Line], levels: Sequence[_Level], cost: Cost
) -> None:
    axes.set_xscale("log", base=2 if cost == "calls" else 10)
    for line in lines:
        points = [(x, row.value) for row in line.rows if (x := _cost(row, cost))]
        style = {"marker": line.marker, "c": line.colour, "ls": line.dashes}
        style |= {"mfc": line.inside or line.colour, "ms": 5, "lw": 1.8}
        if points:
            axes.plot(*zip(*sorted(points), strict=True), label=line.name, **style)
    for name, value, dashes in levels:
        axes.axhline(value, c=GREY, ls=dashes, lw=1.4, zorder=1, label=name)
    bare_axes(axes)
    if cost == "calls":
        _mark_steps(axes, {row.num_steps for line in lines for row in line.rows})
    else:
        log_ticks(axes.xaxis)
    if axes.get_yscale() == "log":
        log_ticks(axes.yaxis)
    axes.set_xlabel(COSTS[cost], fontsize=FONT_SIZE)


def _cost(row: EvalRow, cost: Cost) -> int | float:
    """Returns the cost of an image; 0 if it is unknown or cannot be drawn."""
    known = row.num_steps if cost == "calls" else row.milliseconds or 0.0
    return known if LEAST < known < MOST else 0.0


def _mark_steps(axes: Axes, numbers: Iterable[int]) -> None:
    steps = sorted(numbers)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_major_formatter(FixedFormatter([str(n) for n in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(steps[0] / 1.5, steps[-1] * 1.5)


def _title(group: Group) -> str:
    samples = f"{group.kind.num_samples:,} samples"
    return f"{plain(group.kind.metric)} of {samples}, {group.direction}"


def _draw_legend(figure: Figure, axes: Axes) -> None:
    """Draws the legend below the axes, where it covers nothing."""
    lines = list(axes.lines)
    longest = max((len(str(line.get_label())) for line in lines), default=0)
    columns = int(figure.get_figwidth() / (_LETTER * longest + _SAMPLE))
    columns = max(1, min(columns, len(lines)))
    rows = -(-len(lines) // columns)
    figure.set_figheight(figure.get_figheight() + rows * _ROW)
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=columns,
        fontsize=FONT_SIZE,
        frameon=False,
        labelcolor=INK,
        handlelength=2.4,  # a whole dash and its gap
        columnspacing=1.2,
    )
