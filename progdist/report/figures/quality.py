"""A metric against network calls, for students and their undistilled teacher."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from progdist.report.figures.style import (
    ANCESTRAL,
    FONT_SIZE,
    GREY,
    INK,
    OTHERS,
    STUDENT,
    TEACHER,
    WIDTH,
    bare_axes,
    log_ticks,
    make_figure,
    save_figure,
)
from progdist.report.read import LEAST, MOST
from progdist.report.read.evaluations import (
    direction,
    full_steps,
    is_higher_better,
    read_evaluations,
)
from progdist.report.text import plain, steps_text
from progdist.workdir import layout
from progdist.workdir.rows import EvalRow


class _Look(NamedTuple):
    name: str
    colour: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]] = "-"
    inside: str | None = None  # colour inside the marker; by default the line's


_LINES = {
    ("student", "ddim"): _Look("distilled student", STUDENT, "o"),
    ("teacher", "ddim"): _Look("teacher, DDIM", TEACHER, "s"),
    ("teacher", "ancestral"): _Look("teacher, ancestral", ANCESTRAL, "^"),
}
# Styles of the student's other samplers, all in its colour.
_STUDENT_MARKERS = ("D", "^", "s", "v", "P", "X")
_STUDENT_DASHES = ((3, 2), (1.5, 1.5), (5, 2, 1, 2), (7, 2))
_RUN_COLOURS = (STUDENT, TEACHER, ANCESTRAL, *OTHERS)
# Inches: heights of the axes and a letter, length of a line sample, legend row.
_HEIGHT, _LETTER, _SAMPLE, _ROW = 3.4, 0.085, 0.6, 0.23


def write_quality(workdir: str | Path, metric: str | None = None) -> Path | None:
    """Writes `figures/quality.png`: a metric against network calls.

    Args:
      workdir: folder of the run.
      metric: the metric to draw; None selects the first one in `eval.jsonl`.
    """
    evaluations = drawable(read_evaluations(workdir, metric))
    if not evaluations:
        return None
    path = Path(workdir, layout.FIGURES, "quality.png")
    return save_figure(path, quality_figure(evaluations))


def quality_figure(evaluations: Sequence[EvalRow]) -> Figure:
    """Draws a metric; takes at least one evaluation, all of one metric and drawable."""
    figure, axes = _make_axes(evaluations)
    for (role, sampler), look in _looks(evaluations).items():
        _draw_line(axes, evaluations, role, sampler, look)
    _draw_level(axes, evaluations)
    _label_axes(axes, evaluations)
    _draw_legend(figure, axes)
    return figure


def runs_figure(runs: Mapping[str, Sequence[EvalRow]]) -> Figure:
    """Draws several runs by name, one colour per run; the teachers' DDIM is dashed.

    Takes at least one evaluation in all, of one metric and drawable.
    """
    every = [e for evaluations in runs.values() for e in evaluations]
    figure, axes = _make_axes(every)
    for index, (name, evaluations) in enumerate(runs.items()):
        colour = _RUN_COLOURS[index % len(_RUN_COLOURS)]
        look = _Look(plain(name), colour, "o")
        _draw_line(axes, evaluations, "student", "ddim", look)
        look = _Look(f"{plain(name)}, teacher", colour, "s", (0, (4, 3)))
        _draw_line(axes, evaluations, "teacher", "ddim", look)
    _label_axes(axes, every)
    _draw_legend(figure, axes)
    return figure


def drawable(evaluations: Sequence[EvalRow]) -> list[EvalRow]:
    """Returns the evaluations of one metric that the axes can show."""
    least = LEAST if _is_log(evaluations) else -MOST
    return [e for e in evaluations if least < e.value < MOST]


def _is_log(evaluations: Sequence[EvalRow]) -> bool:
    """Whether the axis is logarithmic: for distances, unless some are negative."""
    return not any(e.value < 0 or is_higher_better(e.metric) for e in evaluations)


def _make_axes(evaluations: Sequence[EvalRow]) -> tuple[Figure, Axes]:
    figure = make_figure(WIDTH, _HEIGHT)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    if _is_log(evaluations):
        axes.set_yscale("log")
    return figure, axes


def _looks(evaluations: Iterable[EvalRow]) -> dict[tuple[str, str], _Look]:
    """Returns the lines to draw: three per run, and those of other samplers."""
    others = {(e.role, e.sampler) for e in evaluations} - set(_LINES)
    looks = dict(_LINES)
    for role, look in (("teacher", _teachers), ("student", _students)):
        samplers = sorted(sampler for of, sampler in others if of == role)
        looks |= {(role, s): look(s, i) for i, s in enumerate(samplers)}
    return looks


def _teachers(sampler: str, index: int) -> _Look:
    return _Look(f"teacher, {plain(sampler)}", OTHERS[index % len(OTHERS)], "D")


def _students(sampler: str, index: int) -> _Look:
    marker = _STUDENT_MARKERS[index % len(_STUDENT_MARKERS)]
    dashes = 0, _STUDENT_DASHES[index % len(_STUDENT_DASHES)]
    return _Look(f"student, {plain(sampler)}", STUDENT, marker, dashes, "#ffffff")


def _draw_line(
    axes: Axes, evaluations: Iterable[EvalRow], role: str, sampler: str, look: _Look
) -> None:
    points = sorted(
        (e.num_steps, e.value)
        for e in evaluations
        if (e.role, e.sampler) == (role, sampler)
    )
    if points:
        name, colour, marker, dashes, inside = look
        style = {"marker": marker, "c": colour, "ls": dashes, "ms": 5, "lw": 1.8}
        axes.plot(*zip(*points, strict=True), label=name, mfc=inside or colour, **style)


def _draw_level(axes: Axes, evaluations: Sequence[EvalRow]) -> None:
    """Draws the teacher's value at its full number of steps, the goal."""
    full = full_steps(evaluations)
    level = [
        e.value
        for e in evaluations
        if (e.role, e.sampler, e.num_steps) == ("teacher", "ddim", full)
    ]
    if level and full is not None:
        least = min(e.num_steps for e in evaluations)
        # Half a tick further at both ends, so that a line shows even for a single N.
        ends = (least / 2**0.5, full * 2**0.5)
        name = f"teacher at {steps_text(full)}"
        axes.plot(ends, level * 2, c=GREY, ls=(0, (4, 3)), lw=1.2, zorder=1, label=name)


def _label_axes(axes: Axes, evaluations: Sequence[EvalRow]) -> None:
    steps = sorted({e.num_steps for e in evaluations})
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_major_formatter(FixedFormatter([str(n) for n in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(steps[0] / 1.5, steps[-1] * 1.5)
    bare_axes(axes)
    if axes.get_yscale() == "log":
        log_ticks(axes)
    metric = evaluations[0].metric
    axes.set_xlabel("network calls per image", fontsize=FONT_SIZE)
    axes.set_ylabel(f"{plain(metric)}, {direction(metric)}", fontsize=FONT_SIZE)


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
