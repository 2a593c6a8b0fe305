"""Samples of each phase, all from the same noise."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from progdist.report.figures.images import (
    image_grid,
    least_upscale,
    save_png,
    square_grid,
)
from progdist.report.figures.style import (
    DPI,
    INK,
    STUDENT,
    TEACHER,
    make_figure,
    save_figure,
)
from progdist.report.read.neighbours import load_neighbours
from progdist.report.read.samples import Samples, load_samples
from progdist.report.text import steps_text
from progdist.workdir import layout

MAX_IN_GRID = 100
_COLUMNS = 10
_MOST_PAIRS = 4  # of student and undistilled model, those with the fewest steps
_LETTER_WIDTH = 10.2  # pixels, as are the next four
_GAP = 4
_LABEL_GAP = 14
_GROUP_GAP = 14
_MARGIN = 12
_FONT_SIZE = 9  # points


class Row(NamedTuple):
    """A row of images; a gap sets it apart from the row above."""

    label: str
    images: UInt8[np.ndarray, "n h w ch"]
    colour: str = INK
    has_gap: bool = False


def write_samples(workdir: str | Path, folder: Path | None = None) -> Path | None:
    """Writes `samples/by_num_steps.png`.

    Each row is a number of steps, the teacher's first; each column is one noise.
    """
    phases = load_samples(workdir, "phase")
    if not phases:
        return None
    folder = folder or Path(workdir, layout.SAMPLES)
    figure = rows_figure([Row(s.label, s.images) for s in phases])
    return save_figure(folder / "by_num_steps.png", figure)


def write_grids(workdir: str | Path) -> None:
    """Writes a plain grid `samples/phase_*.png` for each phase."""
    for samples in load_samples(workdir, "phase"):
        path = Path(workdir, layout.SAMPLES, f"phase_{samples.phase:02d}.png")
        save_png(path, square_grid(samples.images[:MAX_IN_GRID]))


def write_comparison(workdir: str | Path, folder: Path | None = None) -> Path | None:
    """Writes `samples/comparison.png`: students above the undistilled model.

    The pairs are those with the fewest network calls, each from the same noise as the
    teacher above them. Real images, if known, come first.
    """
    phases = load_samples(workdir, "phase")
    undistilled = {s.phase: s for s in load_samples(workdir, "baseline")}
    students = [s for s in phases if s.phase in undistilled][-_MOST_PAIRS:]
    if not students:
        return None
    neighbours = load_neighbours(workdir)
    rows = [Row("real images", neighbours.real)] if neighbours else []
    rows += [
        Row(s.label, s.images, has_gap=bool(neighbours)) for s in phases if not s.phase
    ]
    for student in students:
        rows += _pair(student, undistilled[student.phase])
    folder = folder or Path(workdir, layout.SAMPLES)
    return save_figure(folder / "comparison.png", rows_figure(rows))


def _pair(student: Samples, undistilled: Samples) -> Iterator[Row]:
    yield Row(student.label, student.images, STUDENT, has_gap=True)
    steps = steps_text(undistilled.num_steps)
    yield Row(f"undistilled, {steps}", undistilled.images, TEACHER)


def rows_figure(rows: Sequence[Row]) -> Figure:
    """Draws rows of as many images as all of them have, at most 10, with labels.

    Pixels are not resampled: each image pixel becomes a square of pixels.
    """
    h, w = rows[0].images.shape[1:3]
    scale = least_upscale(h, w, pixels=80)
    columns = min(_COLUMNS, *(len(row.images) for row in rows))
    letters = max(len(row.label) for row in rows)
    left = _MARGIN + int(_LETTER_WIDTH * letters) + _LABEL_GAP
    pitch = h * scale + _GAP
    height = len(rows) * pitch - _GAP + 2 * _MARGIN
    height += _GROUP_GAP * sum(row.has_gap for row in rows)
    width = left + columns * (w * scale + _GAP) - _GAP + _MARGIN
    figure = make_figure(width / DPI, height / DPI, arrange=False)
    top = height - _MARGIN
    for row in rows:
        top -= _GROUP_GAP * row.has_gap
        _place(figure, row.images[:columns], scale, (left, top - h * scale))
        figure.text(
            (left - _LABEL_GAP) / width,
            (top - h * scale / 2) / height,
            row.label,
            ha="right",
            va="center",
            fontsize=_FONT_SIZE,
            color=row.colour,
        )
        top -= pitch
    return figure


def _place(
    figure: Figure,
    images: UInt8[np.ndarray, "n h w ch"],
    scale: int,
    corner: tuple[int, int],
) -> None:
    """Places a row of images, transparent between them, with its lower left corner."""
    grid = image_grid(images[None], scale, _GAP)
    gaps = image_grid(np.zeros_like(images[None, ..., :1]), scale, _GAP)
    rgb = np.broadcast_to(grid, (*grid.shape[:2], 3))
    figure.figimage(np.dstack([rgb, 255 - gaps]), *corner, origin="upper")
