"""Pictures of what each phase draws, every phase from the same noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from progdist.errors import InputError
from progdist.report.images import image_grid, least_upscale, save_png, square_grid
from progdist.report.style import DPI, GREY, INK, make_figure, save_figure, steps_text

_MAX_IN_GRID = 100
_LETTER_WIDTH = 9.6  # pixels, all of them here
_GAP = 4
_LABEL_GAP = 14
_BLOCK_GAP = 40
_HEADING_HEIGHT = 44
_MARGIN = 12
_FONT_SIZE = 8.5  # points


class ArrayError(InputError):
    """A file of arrays is malformed; the message names it, in one line."""


class Samples(NamedTuple):
    """Images drawn in num_steps network calls by the model of a phase."""

    images: UInt8[np.ndarray, "n h w ch"]
    num_steps: int
    phase: int

    @property
    def label(self) -> str:
        """Who drew it, and in how many steps."""
        role = "student" if self.phase else "teacher"
        return f"{role}, {steps_text(self.num_steps)}"


class Block(NamedTuple):
    """Rows of images under one heading; all rows have the same length."""

    heading: str
    rows: UInt8[np.ndarray, "r c h w ch"]


def load_samples(workdir: str | Path, kind: str) -> list[Samples]:
    """Loads `samples/<kind>_*.npz`, by phase; kind is "phase" or "baseline".

    Raises:
      ArrayError: if a file cannot be read or does not hold what it should; names it.
    """
    paths = sorted(Path(workdir, "samples").glob(f"{kind}_*.npz"))
    found = [_load(path) for path in paths]
    for path, samples in zip(paths, found, strict=True):
        if samples.images.shape[1:] != found[0].images.shape[1:]:
            size, others = (_shape(s.images.shape[1:]) for s in (samples, found[0]))
            raise ArrayError(f"{path}: images are {size}, those of {paths[0]} {others}")
    return sorted(found, key=lambda s: s.phase)


def write_samples(workdir: str | Path, columns: int = 10) -> Path | None:
    """Writes `samples/by_num_steps.png`, and a grid `samples/phase_*.png` each.

    One row per number of steps, the teacher's first; a column is one noise.
    """
    phases = load_samples(workdir, "phase")
    for samples in phases:
        path = Path(workdir, "samples", f"phase_{samples.phase:02d}.png")
        save_png(path, square_grid(samples.images[:_MAX_IN_GRID]))
    if not phases:
        return None
    block = Block("", _stack(phases, columns))
    figure = rows_figure([samples.label for samples in phases], [block])
    return save_figure(Path(workdir, "samples", "by_num_steps.png"), figure)


def write_comparison(workdir: str | Path, columns: int = 6) -> Path | None:
    """Writes `samples/comparison.png`: student beside teacher, equal in steps.

    Takes the phases that have a `samples/baseline_*.npz`; a column on the left
    and the same column on the right begin at one noise.
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
    return save_figure(Path(workdir, "samples", "comparison.png"), figure)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an npz file.

    Raises:
      ArrayError: if it is not a whole npz file; names the file.
    """
    try:
        # Opened here: np.load leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file) as arrays:
            found = dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ArrayError(f"{path}: not a whole npz file: {why}") from None
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # any other file in the archive
            raise ArrayError(f"{path}: {name} is not an array")
    return found


def check_array(
    array: np.ndarray, kind: type[np.generic], axes: str, name: str, path: Path
) -> None:
    """Refuses an array that is empty or of another kind or number of axes.

    Args:
      array: the array.
      kind: of its numbers.
      axes: their names, "n h w c" say; c are 1 or 3 channels.
      name: of the array, for the message.
      path: of its file, for the message.

    Raises:
      ArrayError: with what was found and what is accepted.
    """
    if (
        not np.issubdtype(array.dtype, kind)
        or array.ndim != len(axes.split())
        or not array.size
        or (axes.endswith("c") and array.shape[-1] not in (1, 3))
    ):
        found = f"{array.dtype!s:.40} {_shape(array.shape)}"
        wanted = f"{kind.__name__} ({axes})" if axes else f"one {kind.__name__}"
        raise ArrayError(f"{path}: {name} is {found}, not {wanted}")


def _load(path: Path) -> Samples:
    arrays = read_arrays(path)
    missing = {"images", "num_steps", "phase"} - set(arrays)
    if missing:
        raise ArrayError(f"{path}: lacks {', '.join(sorted(missing))}")
    check_array(arrays["images"], np.uint8, "n h w c", "images", path)
    steps, phase = (
        _whole(arrays, "num_steps", 1, path),
        _whole(arrays, "phase", 0, path),
    )
    return Samples(arrays["images"], steps, phase)


def _whole(arrays: dict[str, np.ndarray], name: str, least: int, path: Path) -> int:
    check_array(arrays[name], np.integer, "", name, path)
    value = int(arrays[name])
    if value < least:
        raise ArrayError(f"{path}: {name} is {value}, not {least} or more")
    return value


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _stack(samples: Sequence[Samples], columns: int) -> UInt8[np.ndarray, "r c h w ch"]:
    columns = min(columns, *(len(s.images) for s in samples))
    return np.stack([s.images[:columns] for s in samples])


def rows_figure(labels: Sequence[str], blocks: Sequence[Block]) -> Figure:
    """Sets blocks side by side, the rows' labels on the left.

    Pixels are placed, not resampled: an image pixel is a whole square of them.
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
