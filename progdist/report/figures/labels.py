"""Names written beside lines, or in a legend where they would cover something."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform

from progdist.report.figures.style import INK

_PER_SEGMENT = 24  # points at which a line is probed, per segment
_OFFSET = 8.0  # pixels between a line and its name
_FONT_SIZE = 9
# Inches: of a letter, of a piece of line, of a row of a legend.
_LETTER, _SAMPLE, _ROW = 0.068, 0.5, 0.19
_ENOUGH = 40.0  # pixels of free room beyond which more is not better


class Box(NamedTuple):
    """A rectangle in pixels, its origin at the lower left."""

    left: float
    bottom: float
    right: float
    top: float

    def distances(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """How far each point is from the rectangle, 0 inside."""
        low, high = np.array(self[:2]), np.array(self[2:])
        return np.linalg.norm(
            np.maximum(0, np.maximum(low - points, points - high)), axis=1
        )

    def inside(self, other: "Box") -> bool:
        """Whether this rectangle lies within the other."""
        return bool(
            np.all(np.array(self[:2]) >= other[:2])
            and np.all(np.array(self[2:]) <= other[2:])
        )

    def outline(self) -> Float[np.ndarray, "n 2"]:
        """Points over the rectangle, close enough to keep other names off it."""
        x, y = np.meshgrid(
            np.linspace(self.left, self.right, 12),
            np.linspace(self.bottom, self.top, 4),
        )
        return np.stack([x.ravel(), y.ravel()], axis=1)


def label_lines(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Writes each line's label next to it, in its colour, where there is room.

    Of the places along a line, above it or below or beside, the one with most room to
    the other lines and names wins. Where one has none, all are in a legend below the
    axes instead. Call it last: it goes by the axes as they are.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("label_lines: the axes belong to no figure")
    figure.draw_without_rendering()
    paths = [_pixels(axes, line) for line in lines]
    frame = Box(*axes.get_window_extent().extents)
    taken: list[Float[np.ndarray, "n 2"]] = [np.empty((0, 2))]
    texts: list[Text] = []
    # Points by themselves first: they have few places.
    for index in sorted(range(len(lines)), key=lambda i: len(paths[i]) > 1):
        text = _write(axes, lines[index])
        texts.append(text)
        size = text.get_window_extent()
        others = np.concatenate([*paths[:index], *paths[index + 1 :], *taken])
        boxes = _candidates(paths[index], size.width, size.height)
        room, best = max(
            ((_room(box, frame, paths[index], others), box) for box in boxes),
            key=lambda found: found[0],
        )
        if room <= 0:
            for written in texts:
                written.remove()
            return _write_legend(figure, lines)
        # In parts of the figure, so that it may be saved at another resolution.
        place = figure.transFigure.inverted().transform((best.left, best.bottom))
        text.set(position=place, transform=figure.transFigure)
        taken.append(best.outline())
    return None


def _write(axes: Axes, line: Line2D) -> Text:
    return axes.text(
        0,
        0,
        str(line.get_label()),
        color=line.get_color(),
        fontsize=_FONT_SIZE,
        va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        transform=IdentityTransform(),
        in_layout=False,
    )


def _write_legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    longest = max(len(str(line.get_label())) for line in lines)
    columns = int(figure.get_figwidth() / (_LETTER * longest + _SAMPLE))
    columns = max(1, min(columns, len(lines)))
    # Not at the cost of the axes.
    rows = -(-len(lines) // columns)
    figure.set_figheight(figure.get_figheight() + rows * _ROW)
    figure.legend(
        handles=list(lines),
        loc="outside lower center",
        ncols=columns,
        fontsize=_FONT_SIZE,
        frameon=False,
        labelcolor=INK,
        handlelength=2.4,  # a whole dash and what comes after it
        columnspacing=1.2,
    )


def _pixels(axes: Axes, line: Line2D) -> Float[np.ndarray, "n 2"]:
    """Points along a line, closely spaced, in pixels."""
    corners = axes.transData.transform(line.get_xydata())
    corners = corners[np.isfinite(corners).all(axis=1)]
    at = np.linspace(0, len(corners) - 1, _PER_SEGMENT * (len(corners) - 1) + 1)
    index = np.arange(len(corners))
    return np.stack([np.interp(at, index, c) for c in corners.T], axis=1)


def _candidates(
    path: Float[np.ndarray, "n 2"], width: float, height: float
) -> Iterator[Box]:
    for x, y in path:
        for left in (x, x - width / 2, x - width):
            for bottom in (y + _OFFSET, y - _OFFSET - height):
                yield Box(left, bottom, left + width, bottom + height)
    for x, y in path:
        for left in (x + _OFFSET, x - _OFFSET - width):
            yield Box(left, y - height / 2, left + width, y + height / 2)


def _room(
    box: Box,
    frame: Box,
    own: Float[np.ndarray, "n 2"],
    others: Float[np.ndarray, "m 2"],
) -> float:
    """Pixels to the nearest other thing; below 0 where the box cannot well be.

    That is on its own line and, worse, partly outside the frame.
    """
    if not box.inside(frame):
        return -2 * _OFFSET
    to_own = float(box.distances(own).min())
    if to_own < _OFFSET / 2:
        return to_own - _OFFSET
    to_others = float(box.distances(others).min()) if len(others) else _ENOUGH
    return min(to_others, _ENOUGH)
