"""Shared colours, sizes and axes of the figures, and how figures are saved.

The colours are those of Okabe and Ito (2008), distinct for any colour vision. Figures
are made without pyplot, so they share no state and need no display.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from progdist.report.figures.images import save_png

STUDENT = "#0072B2"
TEACHER = "#D55E00"
ANCESTRAL = "#009E73"
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
INK = "#262626"
GREY = "#757575"
FAINT = "#D9D9D9"

DPI = 150
# Inches and points; still legible on a page as narrow as a phone.
WIDTH, FONT_SIZE = 5.4, 11


def make_figure(width: float, height: float, arrange: bool = True) -> Figure:
    """Returns an empty white figure.

    Args:
      width: inches.
      height: inches.
      arrange: fit axes and labels into the figure; False leaves positions to the
        caller.
    """
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08) if arrange else None
    figure = Figure((width, height), dpi=DPI, layout=engine, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: str | Path, figure: Figure) -> Path:
    """Draws a figure of `make_figure` and writes it atomically as PNG."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    return save_png(path, rgb)


def bare_axes(axes: Axes, font_size: int = FONT_SIZE) -> None:
    """Keeps only the two labelled spines, and adds a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=font_size, length=3)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def log_ticks(axes: Axes) -> None:
    """Labels a logarithmic y axis of any range with plain numbers."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(_log_locator(high / low))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _log_locator(ratio: float) -> Locator:
    if ratio < 6:  # too small a range for ticks at 1, 2, 5: even steps
        return MaxNLocator(6)
    return LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,))
