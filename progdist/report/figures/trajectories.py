"""From noise to image in 4, 2 and 1 steps, drawn as in Figure 1 of the paper.

In Figure 1 of Salimans & Ho (2022) a sampler that maps noise to an image in 4 steps is
distilled to 2 steps and then to 1, so that one arrow spans two, then four. Time runs
from t=1 (noise) on the left to t=0 (data) on the right, on one axis for all rows.
Lengths are in inches.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from progdist.report.figures.style import (
    DPI,
    FAINT,
    GREY,
    INK,
    STUDENT,
    make_figure,
    save_figure,
)
from progdist.report.read.trajectories import Paths, load_trajectories
from progdist.report.text import steps_text
from progdist.workdir import layout

_MAX_STEPS = 8  # with more, the images would be too small to see
_NUM_NOISES = 2  # followed one below another
_TIME_WIDTH = 7.0  # from the centre of the noise to the centre of the image
_LABEL_WIDTH = 1.15
_TOP = 0.5
_MARGIN = 0.15
_ROW_GAP = 0.2
_BLOCK_GAP = 0.36


class _Layout(NamedTuple):
    size: float  # of an image
    width: float
    height: float
    num_rows: int

    def x(self, t: float) -> float:
        """Centre of the images at time t."""
        return _MARGIN + _LABEL_WIDTH + self.size / 2 + (1 - t) * _TIME_WIDTH

    def y(self, block: int, row: int) -> float:
        """Centre of the images in a row of a block, counted from the top."""
        block_height = self.num_rows * (self.size + _ROW_GAP) + _BLOCK_GAP
        down = block * block_height + row * (self.size + _ROW_GAP)
        return self.height - _TOP - self.size / 2 - down


def write_trajectories(workdir: str | Path, folder: Path | None = None) -> Path | None:
    """Writes `figures/trajectories.png`, for the students of at most 8 steps."""
    paths = {
        n: states[:, :_NUM_NOISES]
        for n, states in sorted(load_trajectories(workdir).items(), reverse=True)
        if n <= _MAX_STEPS
    }
    if not paths:
        return None
    folder = folder or Path(workdir, layout.FIGURES)
    return save_figure(folder / "trajectories.png", trajectories_figure(paths))


def trajectories_figure(paths: Paths) -> Figure:
    """Draws, per noise, a row of states for each N, in the order of `paths`.

    Args:
      paths: states by N, at least one, the largest N first; equal numbers of noises.
    """
    layout = _layout(paths)
    figure = make_figure(layout.width, layout.height, arrange=False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    _draw_times(axes, layout, max(paths))
    num_blocks = next(iter(paths.values())).shape[1]
    for block in range(num_blocks):
        _draw_guides(axes, layout, list(paths), block)
        for row, states in enumerate(paths.values()):
            _draw_row(axes, layout, (block, row), states)
    # Last, since drawing an image sets the limits to its own.
    axes.set(xlim=(0, layout.width), ylim=(0, layout.height), aspect="equal")
    return figure


def _layout(paths: Paths) -> _Layout:
    pitch = _TIME_WIDTH / max(paths)
    w = next(iter(paths.values())).shape[3]
    # An integer scale, or the grain of the noise would be uneven.
    size = max(1, int(min(0.86, 0.6 * pitch) * DPI / w)) * w / DPI
    num_blocks = next(iter(paths.values())).shape[1]
    block = len(paths) * (size + _ROW_GAP) - _ROW_GAP
    gaps = (num_blocks - 1) * (_ROW_GAP + _BLOCK_GAP)
    height = _TOP + num_blocks * block + gaps + _MARGIN
    width = 2 * _MARGIN + _LABEL_WIDTH + _TIME_WIDTH + size
    return _Layout(size, width, height, len(paths))


def _draw_times(axes: Axes, layout: _Layout, num_steps: int) -> None:
    """Writes the names of the states above their columns: noise, z_t, image."""
    y = layout.height - _TOP / 2
    for i in range(num_steps, -1, -1):
        t = Fraction(i, num_steps)
        text = f"$z_{{{t}}}$" if 0 < t < 1 else ("noise $z_1$" if t else "image $x$")
        axes.text(
            layout.x(float(t)),
            y,
            text,
            ha="center",
            va="center",
            fontsize=10,
            color=INK,
        )


def _draw_guides(axes: Axes, layout: _Layout, steps: Sequence[int], block: int) -> None:
    """Joins equal times in neighbouring rows, where one step ends as two do."""
    for row, n in enumerate(steps[1:], start=1):
        ends = layout.y(block, row - 1), layout.y(block, row)
        axes.text(
            _MARGIN + _LABEL_WIDTH - 0.15,
            sum(ends) / 2,
            "distil ↓",
            ha="right",
            va="center",
            fontsize=8,
            color=GREY,
        )
        for i in range(n + 1):
            x = layout.x(i / n)
            axes.plot((x, x), ends, color=FAINT, linewidth=2.0, zorder=0)


def _draw_row(
    axes: Axes,
    layout: _Layout,
    place: tuple[int, int],
    states: Float[np.ndarray, "states k h w c"],
) -> None:
    block, row = place
    n = len(states) - 1
    y, half = layout.y(block, row), layout.size / 2
    axes.text(
        _MARGIN + _LABEL_WIDTH - 0.15,
        y,
        steps_text(n),
        ha="right",
        va="center",
        fontsize=10,
        color=INK,
    )
    for step, state in enumerate(states[:, block]):
        x = layout.x(1 - step / n)
        extent = (x - half, x + half, y - half, y + half)
        axes.imshow(visible(state), extent=extent, interpolation="nearest", zorder=2)
        # Without a frame, white pixels would have no edge on the white page.
        edge = {"fill": False, "edgecolor": GREY, "linewidth": 0.6, "zorder": 3}
        axes.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, **edge))
        if step < n:
            _draw_arrow(axes, (x + half, layout.x(1 - (step + 1) / n) - half), y)


def _draw_arrow(axes: Axes, ends: tuple[float, float], y: float) -> None:
    air = 0.05
    axes.annotate(
        "",
        xy=(ends[1] - air, y),
        xytext=(ends[0] + air, y),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.5,head_width=0.25",
            "color": STUDENT,
            "linewidth": 2.2,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def visible(state: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 3"]:
    """Returns a state as RGB in [0, 1]; clips noise beyond [-1, 1]; NaN is grey."""
    rgb = np.broadcast_to(state, (*state.shape[:2], 3))
    return np.clip((np.nan_to_num(rgb.astype(np.float64)) + 1) / 2, 0, 1)
