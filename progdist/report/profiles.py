"""The loss of each phase by the log-SNR of z_t: where along the way it is made."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from progdist.diffusion import logsnr_bins
from progdist.report.style import (
    LEAST,
    MOST,
    STUDENT,
    TEACHER,
    bare_axes,
    log_ticks,
    make_figure,
    steps_text,
)
from progdist.workdir.rows import MetricsRow

_LAST = 10  # a profile is of the last tenth of a phase's rows
_WIDTH, _HEIGHT = 1.8, 1.6  # inches, at least, of a phase's axes and their labels
_MARGIN = 1.6  # a factor between the scale's ends and the outermost losses
_FRAME = 0.4  # inches for what is written below all of them


class Profile(NamedTuple):
    """The loss at the end of a phase, in the bins of the log-SNR; NaN in empty ones."""

    phase: int
    num_steps: int
    loss: Float[np.ndarray, " bins"]


def profiles_of(rows: Iterable[MetricsRow]) -> list[Profile]:
    """Returns the profile of each phase whose rows have one."""
    latest = {row.global_step: row for row in rows if row.loss_by_logsnr}
    by_phase: dict[int, list[MetricsRow]] = {}
    for _, row in sorted(latest.items()):
        by_phase.setdefault(row.phase, []).append(row)
    profiles = [
        Profile(phase, found[0].num_steps, _mean_of_last(found))
        for phase, found in sorted(by_phase.items())
    ]
    return [p for p in profiles if not np.isnan(p.loss).all()]


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


def _mean_of_last(rows: Sequence[MetricsRow]) -> Float[np.ndarray, " bins"]:
    last = rows[-math.ceil(len(rows) / _LAST) :]
    values = np.array([row.loss_by_logsnr for row in last], np.float64)
    # What has no place on a logarithmic axis counts as nothing.
    drawn = np.ma.masked_where(~((values > LEAST) & (values < MOST)), values)
    return np.ma.filled(drawn.mean(axis=0), np.nan)
