"""Distance against number of network calls, student and undistilled teacher."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from progdist.report.labels import label_lines
from progdist.report.rows import Evaluation, full_steps, read_evaluations
from progdist.report.style import (
    ANCESTRAL,
    GREY,
    STUDENT,
    TEACHER,
    bare_axes,
    log_ticks,
    make_figure,
    save_figure,
    steps_text,
)

_LINES = (
    ("student", "ddim", "distilled student", STUDENT, "o"),
    ("teacher", "ddim", "teacher, DDIM", TEACHER, "s"),
    ("teacher", "ancestral", "teacher, ancestral", ANCESTRAL, "^"),
)


def write_quality(workdir: str | Path, metric: str | None = None) -> Path | None:
    """Writes `figures/quality.png`: distance against network calls, both in log.

    Args:
      workdir: folder of the run.
      metric: the distance to draw; None takes the one `eval.jsonl` begins with.
    """
    evaluations = [
        e for e in read_evaluations(workdir, metric) if 0 < e.value < math.inf
    ]
    if not evaluations:
        return None
    path = Path(workdir, "figures", "quality.png")
    return save_figure(path, quality_figure(evaluations))


def quality_figure(evaluations: Sequence[Evaluation]) -> Figure:
    """Draws at least one evaluation; values positive and finite, of one metric."""
    figure = make_figure(7.0, 4.2)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lines = _draw_lines(axes, evaluations)
    lines += _draw_level(axes, evaluations)
    _label_axes(axes, evaluations)
    label_lines(axes, lines)
    return figure


def _draw_lines(axes: Axes, evaluations: Sequence[Evaluation]) -> list[Line2D]:
    lines = []
    for role, sampler, name, colour, marker in _LINES:
        points = sorted(
            (e.num_steps, e.value)
            for e in evaluations
            if (e.role, e.sampler) == (role, sampler)
        )
        if points:
            x, y = zip(*points, strict=True)
            lines += axes.plot(x, y, marker=marker, c=colour, ms=5, lw=1.8, label=name)
    return lines


def _draw_level(axes: Axes, evaluations: Sequence[Evaluation]) -> list[Line2D]:
    """The teacher at its full number of steps: what distillation is to keep."""
    full = full_steps(evaluations)
    level = [
        e.value
        for e in evaluations
        if (e.role, e.sampler, e.num_steps) == ("teacher", "ddim", full)
    ]
    if not level or full is None:
        return []
    least = min(e.num_steps for e in evaluations)
    # Half a tick further at both ends, so that it is a line with one N alone.
    ends = (least / 2**0.5, full * 2**0.5)
    name = f"teacher at {steps_text(full)}"
    return axes.plot(
        ends, level * 2, c=GREY, ls=(0, (4, 3)), lw=1.2, zorder=1, label=name
    )


def _label_axes(axes: Axes, evaluations: Sequence[Evaluation]) -> None:
    steps = sorted({e.num_steps for e in evaluations})
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_major_formatter(FixedFormatter([str(n) for n in steps]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(steps[0] / 1.5, steps[-1] * 1.5)
    # Room for names above and below the lines.
    low, high = (f(e.value for e in evaluations) for f in (min, max))
    room = max(1.25, (high / low) ** 0.12)
    axes.set_ylim(low / room, high * room)
    bare_axes(axes)
    log_ticks(axes)
    axes.set_xlabel("network calls per image", fontsize=10)
    axes.set_ylabel(f"{evaluations[0].metric}, lower is better", fontsize=10)
