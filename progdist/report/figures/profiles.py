"""Loss of each phase by log-SNR of z_t, from noise to data."""

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

_WIDTH, _HEIGHT, _FONT_SIZE = 1.9, 1.6, 9  # inches, points; the page sets them in rows
_MARGIN = 1.6  # factor between the outermost losses and the ends of the scale


def profile_figures(profiles: Sequence[Profile]) -> list[Figure]:
    """Draws each profile in its own figure; students share one scale."""
    figures = []
    for profile in profiles:
        alike = [p.loss for p in profiles if bool(p.phase) == bool(profile.phase)]
        figure = make_figure(_WIDTH, _HEIGHT)
        limits = float(np.nanmin(alike)), float(np.nanmax(alike))
        _draw(figure.subplots(), profile, *limits)
        figures.append(figure)
    return figures


def _draw(axes: Axes, profile: Profile, least: float, most: float) -> None:
    there = ~np.isnan(profile.loss)
    colour = STUDENT if profile.phase else TEACHER
    logsnr = np.array(logsnr_bins.CENTRES)[there]
    axes.plot(logsnr, profile.loss[there], c=colour, lw=1.2, marker="o", ms=2.5)
    axes.set_yscale("log")
    axes.set_ylim(least / _MARGIN, most * _MARGIN)
    bare_axes(axes, _FONT_SIZE)
    log_ticks(axes.yaxis)
    axes.set_xlim(logsnr_bins.EDGES[0], logsnr_bins.EDGES[-1])
    axes.set_xticks([-20, 0, 20])
    title = steps_text(profile.num_steps) if profile.phase else "teacher"
    axes.set_title(title, fontsize=_FONT_SIZE, color=colour)
