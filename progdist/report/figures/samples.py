"""Samples of each phase, all from the same noise."""

from collections.abc import Sequence
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
from progdist.report.figures.style import DPI, GREY, INK, make_figure, save_figure
from progdist.report.read.samples import Samples, load_samples
from progdist.report.text import steps_text
from progdist.workdir import layout

MAX_IN_GRID = 100
_LETTER_WIDTH = 9.6  # pixels, as are the next five
_GAP = 4
_LABEL_GAP = 14
_BLOCK_GAP = 40
_HEADING_HEIGHT = 44
_MARGIN = 12
_FONT_SIZE = 8.5  # points


class Block(NamedTuple):
    """Rows of images under one heading; all rows have the same length."""

    heading: str
    rows: UInt8[np.ndarray, "r c h w ch"]


def write_samples(workdir: str | Path, columns: int = 10) -> Path | None:
    """Writes `samples/by_num_steps.png`, and a grid `samples/phase_*.png` per phase.

    Each row is a number of steps, the teacher's first; each column is one noise.
    """
    phases = load_samples(workdir, "phase")
    for samples in phases:
        path = Path(workdir, layout.SAMPLES, f"phase_{samples.phase:02d}.png")
        save_png(path, square_grid(samples.images[:MAX_IN_GRID]))
    if not phases:
        return None
    block = Block("", _stack(phases, columns))
    figure = rows_figure([samples.label for samples in phases], [block])
    return save_figure(Path(workdir, layout.SAMPLES, "by_num_steps.png"), figure)


def write_comparison(workdir: str | Path, columns: int = 6) -> Path | None:
    """Writes `samples/comparison.png`: student and teacher at equal numbers of steps.

    Shows the phases that have a `samples/baseline_*.npz`. Column j starts from the same
    noise on both sides.
    """
    baseline = {s.phase: s for s in load_samples(workdir, "baseline")}
    students = [s for s in load_samples(workdir, "phase") if s.phase in baseline]
    if not students:
        return None
    teachers = [baseline[s.phase] for s in students]
    blocks = [
        Block("distilled student", _stack(students, columns)),
        Block("teacher, not distilled", _stack(teachers, columns)),
    ]
    figure = rows_figure([steps_text(s.num_steps) for s in students], blocks)
    return save_figure(Path(workdir, layout.SAMPLES, "comparison.png"), figure)


def _stack(samples: Sequence[Samples], columns: int) -> UInt8[np.ndarray, "r c h w ch"]:
    columns = min(columns, *(len(s.images) for s in samples))
    return np.stack([s.images[:columns] for s in samples])


def rows_figure(labels: Sequence[str], blocks: Sequence[Block]) -> Figure:
    """Draws blocks side by side, with row labels on the left.

    Pixels are not resampled: each image pixel becomes a square of pixels.
    """
    h, w = blocks[0].rows.shape[2:4]
    scale = least_upscale(h, w, pixels=80)
    grids = [image_grid(block.rows, scale, _GAP) for block in blocks]
    headings = _HEADING_HEIGHT if any(block.heading for block in blocks) else 0
    left = _MARGIN + int(_LETTER_WIDTH * max(map(len, labels))) + _LABEL_GAP
    width = left + sum(g.shape[1] for g in grids) + _MARGIN
    width += _BLOCK_GAP * (len(grids) - 1)
    height = grids[0].shape[0] + headings + 2 * _MARGIN
    figure = make_figure(width / DPI, height / DPI, arrange=False)
    pitch = h * scale + _GAP
    for row, label in enumerate(labels):
        below_top = _MARGIN + headings + row * pitch + h * scale / 2
        x, y = (left - _LABEL_GAP) / width, 1 - below_top / height
        _text(figure, x, y, label, "right")
    for block, grid in zip(blocks, grids, strict=True):
        middle = (left + grid.shape[1] / 2) / width
        _text(figure, middle, 1 - (_MARGIN + 16) / height, block.heading, "center")
        _place(figure, grid, left, _MARGIN)
        left += grid.shape[1] + _BLOCK_GAP
    return figure


def _place(
    figure: Figure, grid: UInt8[np.ndarray, "h w ch"], left: int, bottom: int
) -> None:
    rgb = np.broadcast_to(grid, (*grid.shape[:2], 3))
    figure.figimage(rgb, left, bottom, origin="upper")


def _text(figure: Figure, x: float, y: float, text: str, align: str) -> None:
    colour = INK if align == "right" else GREY
    figure.text(x, y, text, ha=align, va="center", fontsize=_FONT_SIZE, color=colour)
