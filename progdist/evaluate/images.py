"""Images from elsewhere, to be compared with data."""

import os
from pathlib import Path

import numpy as np

from progdist import data
from progdist.config.settings import ImageShape
from progdist.data.headers import open_image
from progdist.data.listing import Directory
from progdist.data.splits import select_split
from progdist.workdir import arrays
from progdist.workdir.arrays import shape_text
from progdist.workdir.files import FormatError

_GREY = "1", "L", "LA", "I", "I;16"


def open_images(path: Path, image_shape: ImageShape, num_workers: int) -> data.Source:
    """Opens images that all have one shape.

    Args:
      path: a folder of image files, or a file of `arrays.read_images`.
      image_shape: their shape; grey files of a folder may be compared with colour.
      num_workers: number of decoding threads.

    Raises:
      FormatError: if there are no images, or they have another shape.
      DataError: if a file of the folder cannot be used.
    """
    if not path.is_dir():
        return _open_file(path, image_shape)
    settings = {"image_shape": image_shape, "num_workers": num_workers}
    source = data.open_source("folder", dir=str(path), labels="none", **settings)
    files = select_split(Directory(path), "train")  # the files that were opened
    for name in files.listing().names:
        file = Path(files.where, os.fsdecode(name))
        with open_image(files.read(name)) as image:
            channels = max(1 if image.mode in _GREY else 3, image_shape[2])
            _check_shape(file, (image.height, image.width, channels), image_shape)
    return source


def _open_file(path: Path, image_shape: ImageShape) -> data.Source:
    try:
        images, _ = arrays.read_images(path)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file or folder") from None
    _check_shape(path, images.shape[1:], image_shape)
    return data.ArraySource(str(path), images, np.zeros(len(images), np.int32))


def _check_shape(path: Path, shape: tuple[int, ...], expected: ImageShape) -> None:
    if shape != expected:
        ours = f"the data's are {shape_text(expected)}"
        raise FormatError(f"{path}: images are {shape_text(shape)}, {ours}")
