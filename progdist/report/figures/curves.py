"""The loss of a run over all of its phases."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from progdist.report.figures.style import (
    FAINT,
    FONT_SIZE,
    GREY,
    STUDENT,
    TEACHER,
    WIDTH,
    bare_axes,
    log_ticks,
    make_figure,
    save_figure,
)
from progdist.report.read.curves import Curve, read_curves
from progdist.workdir import layout

_SMOOTH_PARTS = 30  # a running mean spans one 30th of a phase,
_SMOOTH_LEAST = 5  # but at least this many rows
_HEIGHT = 3.8  # inches
_NARROW = 0.4  # inches; in narrower phases N is written vertically


def smooth(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Returns the running mean over `window` values, and over fewer at both ends."""
    ones = np.ones(min(window, len(values)))
    total = np.convolve(values, ones, mode="same")
    return total / np.convolve(np.ones_like(values), ones, mode="same")


def write_curves(workdir: str | Path) -> Path | None:
    """Writes `figures/training.png`: loss (log) and learning rate by global step."""
    curves = read_curves(workdir)
    if not curves:
        return None
    return save_figure(
        Path(workdir, layout.FIGURES, "training.png"), curves_figure(curves)
    )


def curves_figure(curves: Sequence[Curve]) -> Figure:
    """Draws at least one curve: losses above, learning rates below."""
    figure = make_figure(WIDTH, _HEIGHT)
    loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_losses(loss_axes, curves)
    _draw_rates(rate_axes, curves)
    _mark_phases(loss_axes, rate_axes, curves)
    return figure


def _draw_losses(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        window = max(_SMOOTH_LEAST, len(curve.loss) // _SMOOTH_PARTS)
        # Of the logarithm, as drawn, so that a spike hardly moves the line.
        line = np.exp(smooth(np.log(curve.loss), window))
        faint = {"color": _colour(curve), "alpha": 0.28, "linewidth": 0.7}
        axes.plot(curve.global_step, curve.loss, **faint)
        mark = "o" if len(line) == 1 else None
        axes.plot(curve.global_step, line, marker=mark, c=_colour(curve), lw=1.6, ms=3)
    axes.set_yscale("log")
    bare_axes(axes)
    log_ticks(axes)
    axes.set_ylabel("loss", fontsize=FONT_SIZE)


def _draw_rates(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve in curves:
        axes.plot(curve.global_step, curve.learning_rate, c=_colour(curve), lw=1.3)
    bare_axes(axes)
    peak = max(float(curve.learning_rate.max()) for curve in curves)
    axes.set_ylim(bottom=0)
    axes.set_yticks([0, peak], ["0", f"{peak:.3g}"])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("learning\nrate", fontsize=FONT_SIZE)
    axes.set_xlabel("update", fontsize=FONT_SIZE)


def _mark_phases(loss: Axes, rate: Axes, curves: Sequence[Curve]) -> None:
    """Draws a line at the start of each phase and writes its N above it."""
    begins = [int(curve.global_step[0]) for curve in curves]
    end = max(int(curves[-1].global_step[-1]), begins[-1] + 1)
    loss.set_xlim(begins[0], end)
    for axes in (loss, rate):
        for begin in begins[1:]:
            axes.axvline(begin, color=FAINT, linewidth=0.8, zorder=0)
    spans = list(zip(begins, [*begins[1:], end], strict=True))
    share = [(stop - begin) / (end - begins[0]) for begin, stop in spans]
    # The last phase may have only just begun, so it does not count.
    narrow = any(
        s * WIDTH < _NARROW for s, c in zip(share[:-1], curves, strict=False) if c.phase
    )
    for curve, span in zip(curves, spans, strict=True):
        _name_phase(loss, curve, sum(span) / 2, upwards=narrow and curve.phase > 0)
    if curves[-1].phase:
        title = "students, by number of steps"
        above = 42 if narrow else 20
        loss.set_title(title, loc="right", fontsize=FONT_SIZE, color=GREY, pad=above)


def _name_phase(axes: Axes, curve: Curve, x: float, upwards: bool) -> None:
    axes.annotate(
        f"{curve.num_steps}" if curve.phase else "teacher",
        (x, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=90 if upwards else 0,
        fontsize=FONT_SIZE,
        color=_colour(curve),
    )


def _colour(curve: Curve) -> str:
    return STUDENT if curve.phase else TEACHER
