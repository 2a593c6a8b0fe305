"""Shared colours, sizes and axes of the figures, and how figures are saved.

The colours are those of Okabe and Ito (2008), distinct for any colour vision, but dark
enough on white, and light enough on black, for text. Figures are made without pyplot,
so they share no state and need no display.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.ticker import (
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from progdist.report.figures.images import save_png

STUDENT = "#0072b2"
TEACHER = "#bf4d00"
ANCESTRAL = "#00805d"
OTHERS = ("#b0508a", "#9a6700", "#2878b5", "#7a5195")
INK = "#1f2328"
GREY = "#666d75"
FAINT = "#d9dce0"
PAPER = "#ffffff"
# The same colours on a dark page.
DARK = {
    STUDENT: "#56b4e9",
    TEACHER: "#f28e4b",
    ANCESTRAL: "#3fc79a",
    INK: "#e6e8eb",
    GREY: "#9aa3ad",
    FAINT: "#363c44",
    PAPER: "#0d1117",
    **dict(zip(OTHERS, ("#e39cc6", "#f0b429", "#8fc9f2", "#b79ad6"), strict=True)),
}
_COLOURS = "color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"

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
    figure = Figure((width, height), dpi=DPI, layout=engine, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Figure) -> Path:
    """Writes a figure of `make_figure` as PNG, and a dark copy as NAME_dark.png.

    Both are written atomically. The figure itself becomes the dark one.

    Returns:
      The path of the light figure.
    """
    save_png(path, _drawn(figure))
    darken(figure)
    save_png(path.with_stem(f"{path.stem}_dark"), _drawn(figure))
    return path


def darken(figure: Figure) -> None:
    """Replaces the colours of a figure that has been drawn by those of `DARK`."""
    artists: list[Artist] = list(figure.findobj())
    arrows = [a.arrow_patch for a in artists if isinstance(a, Annotation)]
    for artist in (*artists, *(arrow for arrow in arrows if arrow)):
        changes = {name: _dark(artist, name) for name in _COLOURS}
        artist.set(**{name: colour for name, colour in changes.items() if colour})


def bare_axes(axes: Axes, font_size: int = FONT_SIZE) -> None:
    """Keeps only the two labelled spines, and adds a faint grid."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=font_size, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def log_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis of any range with plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(_log_locator(high / low))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _dark(artist: Artist, name: str) -> str | None:
    """Returns the dark colour of a property; None if there is none, or no property."""
    colour: Any = getattr(artist, f"get_{name}", lambda: None)()
    try:
        return DARK.get(to_hex(colour))
    except (TypeError, ValueError):  # None, "none", "auto" or an array of colours
        return None


def _log_locator(ratio: float) -> Locator:
    if ratio < 6:  # too small a range for ticks at 1, 2, 5: even steps
        return MaxNLocator(4)
    return LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 1000 else (1.0,))
