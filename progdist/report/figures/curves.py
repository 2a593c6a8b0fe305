"""The losses of a run, a panel for each phase, and its learning rate.

The loss of a round is the distance of the student to its own teacher, so losses of
different rounds are not comparable, and each has a scale of its own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from progdist.report.figures.style import (
    FONT_SIZE,
    INK,
    STUDENT,
    TEACHER,
    WIDTH,
    bare_axes,
    log_ticks,
    make_figure,
    save_figure,
)
from progdist.report.read.curves import Curve, read_curves
from progdist.report.text import steps_text
from progdist.workdir import layout

_ROUNDS_TITLE = (
    "Rounds: distance of the student to its own teacher, by update (scales differ)"
)
_SMOOTH_PARTS = 30  # a running mean spans one 30th of a phase,
_SMOOTH_LEAST = 5  # but at least this many rows
_HEIGHT, _SMALL_HEIGHT = 2.2, 1.6  # inches, as are the next two
_SMALL_WIDTH, _HEADING = 1.9, 0.3
_SMALL_FONT = 9
_MOST_COLUMNS = 4


def smooth(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Returns the running mean over `window` values, and over fewer at both ends."""
    ones = np.ones(min(window, len(values)))
    total = np.convolve(values, ones, mode="same")
    return total / np.convolve(np.ones_like(values), ones, mode="same")


def write_curves(workdir: str | Path, folder: Path | None = None) -> Path | None:
    """Writes `figures/training.png`: the losses (log) and the learning rate."""
    curves = read_curves(workdir)
    if not curves:
        return None
    folder = folder or Path(workdir, layout.FIGURES)
    return save_figure(folder / "training.png", curves_figure(curves))


def curves_figure(curves: Sequence[Curve]) -> Figure:
    """Draws at least one curve: base model and learning rate above, rounds below."""
    rounds = [curve for curve in curves if curve.phase]
    num_rows = -(-len(rounds) // _MOST_COLUMNS)
    heights = [_HEIGHT, num_rows * _SMALL_HEIGHT + bool(rounds) * _HEADING]
    figure = make_figure(WIDTH * 1.82, sum(heights))
    top, *rest = figure.subfigures(
        1 + bool(rounds), 1, height_ratios=heights[: 1 + bool(rounds)], squeeze=False
    )[:, 0]
    base = [curve for curve in curves if not curve.phase]
    above = top.subplots(1, 1 + bool(base), squeeze=False)[0]
    _draw_rates(above[-1], curves)
    if base:
        _draw_base(above[0], base)
    for below in rest:
        below.suptitle(_ROUNDS_TITLE, fontsize=FONT_SIZE, color=INK)
        columns = -(-len(rounds) // num_rows)
        panels = below.subplots(num_rows, columns, squeeze=False).flat
        for axes, curve in zip(panels, rounds, strict=False):
            _draw_loss(axes, curve, _SMALL_FONT)
        for axes in list(panels)[len(rounds) :]:
            axes.set_axis_off()
    return figure


def base_figure(curves: Sequence[Curve]) -> Figure | None:
    """Draws the loss of the base model; None if it was given."""
    base = [curve for curve in curves if not curve.phase]
    figure = make_figure(WIDTH, _HEIGHT)
    if base:
        _draw_base(figure.subplots(), base)
    return figure if base else None


def rate_figure(curves: Sequence[Curve]) -> Figure:
    """Draws the learning rate of all phases."""
    figure = make_figure(WIDTH, _HEIGHT)
    _draw_rates(figure.subplots(), curves)
    return figure


def round_figures(curves: Sequence[Curve]) -> list[Figure]:
    """Draws the loss of each round in a small figure of its own."""
    figures = []
    for curve in curves:
        if curve.phase:
            figures.append(make_figure(_SMALL_WIDTH, _SMALL_HEIGHT))
            _draw_loss(figures[-1].subplots(), curve, _SMALL_FONT)
    return figures


def _draw_base(axes: Axes, curves: Sequence[Curve]) -> None:
    _draw_loss(axes, curves[0], FONT_SIZE)
    axes.set_xlabel("update", fontsize=FONT_SIZE)


def _draw_loss(axes: Axes, curve: Curve, font_size: int) -> None:
    window = max(_SMOOTH_LEAST, len(curve.loss) // _SMOOTH_PARTS)
    # Of the logarithm, as drawn, so that a spike hardly moves the line.
    line = np.exp(smooth(np.log(curve.loss), window))
    colour = STUDENT if curve.phase else TEACHER
    faint = {"color": colour, "alpha": 0.4, "linewidth": 0.7}
    axes.plot(curve.step, curve.loss, **faint)
    mark = "o" if len(line) == 1 else None
    axes.plot(curve.step, line, marker=mark, c=colour, lw=1.6, ms=3)
    axes.set_yscale("log")
    bare_axes(axes, font_size)
    log_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(3 if curve.phase else 5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    title = steps_text(curve.num_steps) if curve.phase else "Teacher: loss"
    axes.set_title(title, fontsize=font_size, color=colour)


def _draw_rates(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour = STUDENT if curve.phase else TEACHER
        axes.plot(curve.global_step, curve.learning_rate, c=colour, lw=1.3)
    bare_axes(axes)
    rates = sorted({curve.rate for curve in curves})
    most = max(rates[-1], *(float(curve.learning_rate.max()) for curve in curves))
    axes.set_ylim(0, 1.05 * most or 1)
    axes.set_yticks([0, *rates], ["0", *(f"{rate:.3g}" for rate in rates)])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("Learning rate", fontsize=FONT_SIZE, color=INK)
    axes.set_xlabel("update, all phases", fontsize=FONT_SIZE)
