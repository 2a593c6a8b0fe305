"""The loss of each phase by the log-SNR of z_t: where along the way it is made."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from progdist.diffusion import logsnr_bins
from progdist.report.figures.style import (
    STUDENT,
    TEACHER,
    bare_axes,
    log_ticks,
    make_figure,
)
from progdist.report.read.profiles import Profile
from progdist.report.text import steps_text

_WIDTH, _HEIGHT = 1.8, 1.6  # inches, at least, of a phase's axes and their labels
_MARGIN = 1.6  # a factor between the scale's ends and the outermost losses
_FRAME = 0.4  # inches for what is written below all of them


def profiles_figure(profiles: Sequence[Profile], width: float = 9.0) -> Figure:
    """Draws at least one profile, each in axes of its own; students on one scale."""
    columns = int(width / _WIDTH)
    rows = -(-len(profiles) // columns)
    figure = make_figure(width, _FRAME + rows * _HEIGHT)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, profile in zip(grid.flat, profiles, strict=False):
        students = profile.phase > 0
        alike = [p.loss for p in profiles if (p.phase > 0) == students]
        _draw(axes, profile, float(np.nanmin(alike)), float(np.nanmax(alike)))
    for axes in grid.flat[len(profiles) :]:
        axes.set_visible(False)
    figure.supxlabel("noise ← log-SNR → data", fontsize=10)
    return figure


def _draw(axes: Axes, profile: Profile, least: float, most: float) -> None:
    there = ~np.isnan(profile.loss)
    colour = STUDENT if profile.phase else TEACHER
    logsnr = np.array(logsnr_bins.CENTRES)[there]
    axes.plot(logsnr, profile.loss[there], c=colour, lw=1.2, marker="o", ms=2.5)
    axes.set_yscale("log")
    axes.set_ylim(least / _MARGIN, most * _MARGIN)
    bare_axes(axes)
    log_ticks(axes)
    axes.set_xlim(logsnr_bins.EDGES[0], logsnr_bins.EDGES[-1])
    axes.set_xticks([-20, 0, 20])
    title = steps_text(profile.num_steps) if profile.phase else "teacher"
    axes.set_title(title, fontsize=9, color=colour)
