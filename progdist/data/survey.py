"""Survey of a folder of images: number, sizes, colours and classes.

Reads the headers of some of the files and decodes none. The result depends only on the
files, so that every machine finds the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from progdist.config.settings import ImageShape, LabelRule
from progdist.data.batches import spread_indices
from progdist.data.folder import open_split
from progdist.data.headers import ImageError, Size, open_image, reasons
from progdist.data.labels import read_labels
from progdist.data.listing import Files, printable
from progdist.data.source import DataError

_MOST_HEADERS = 256
_GREY_MODES = "1", "L", "LA", "I"


class Survey(NamedTuple):
    """Content of a folder, or of one of its splits.

    Attributes:
      where: path of the directory, for messages.
      num_images: number of image files.
      num_classes: number of classes; 0 if there are fewer than two, or one is empty.
      sizes: (width, height) of the images looked at, by ascending area.
      is_grey: whether all of these are stored in grey.
      has_alpha: whether one of these is stored with transparency.
    """

    where: str
    num_images: int
    num_classes: int
    sizes: list[Size]
    is_grey: bool
    has_alpha: bool

    @property
    def side(self) -> int:
        """Side, in pixels, that nine in ten images reach."""
        smaller_sides = sorted(map(min, self.sizes))
        return smaller_sides[len(smaller_sides) // 10]


def look(path: Path, split: str = "train", rule: LabelRule = "auto") -> Survey:
    """Surveys a directory or zip archive of images.

    Raises:
      DataError: if it cannot be read, or holds no such split or no readable image.
    """
    files, listing = open_split(path, split)
    names = listing.names
    labels, class_names, _ = read_labels(files, names, rule)
    num_classes = len(np.unique(labels))
    sizes, is_grey, has_alpha = zip(*_read_headers(files, names), strict=True)
    return Survey(
        files.where,
        len(names),
        num_classes if 1 < num_classes == len(class_names) else 0,
        sorted(sizes, key=lambda size: size[0] * size[1]),
        all(is_grey),
        any(has_alpha),
    )


def describe(survey: Survey, image_shape: ImageShape) -> str:
    """Returns one line: the content of a folder, and the shape it is trained at."""
    smallest, largest = (_by(survey.sizes[i]) for i in (0, -1))
    parts = [f"{survey.num_images:,} images"]
    if survey.num_classes:
        parts[0] += f" of {survey.num_classes:,} classes"
    parts += [smallest if smallest == largest else f"{smallest} to {largest}"]
    if len(survey.sizes) < survey.num_images:
        parts[-1] += f" in {len(survey.sizes):,} of them"
    return f"{survey.where}: {', '.join(parts)}: trained at {_by(image_shape)}"


def _read_headers(
    files: Files, names: list[bytes]
) -> Iterator[tuple[Size, bool, bool]]:
    """Yields size, is_grey and has_alpha of images spread evenly over the names.

    Raises:
      DataError: if none can be read.
    """
    errors, count = list[str](), min(len(names), _MOST_HEADERS)
    for row in spread_indices(len(names), count).tolist():
        try:
            yield _header(files.read(names[row]))
        except ImageError as error:
            errors.append(f"{printable(names[row])}: {error}")
    if len(errors) == count:
        raise DataError(f"{files.where}: holds no readable image ({errors[0]})")


def _header(encoded: bytes) -> tuple[Size, bool, bool]:
    with reasons(), open_image(encoded) as image:
        is_grey = image.mode.partition(";")[0] in _GREY_MODES
        return image.size, is_grey, image.has_transparency_data


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
