"""The nearest training images of the samples, and real images."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from progdist.workdir import layout
from progdist.workdir.arrays import check_array, read_arrays
from progdist.workdir.files import FormatError


class Pairs(NamedTuple):
    """Samples of a student, and the nearest training image of each."""

    samples: UInt8[np.ndarray, "n h w ch"]
    nearest: UInt8[np.ndarray, "n h w ch"]
    distances: Float32[np.ndarray, " n"]


class Neighbours(NamedTuple):
    """Nearest training images.

    A distance is the root mean square difference of the pixels, which are 0 … 255.

    Attributes:
      real: some training images.
      real_distances: distances of training images to the nearest other one.
      num_images: number of training images that were searched.
      students: the samples of students, by number of steps.
    """

    real: UInt8[np.ndarray, "n h w ch"]
    real_distances: Float32[np.ndarray, " k"]
    num_images: int
    students: dict[int, Pairs]


def load_neighbours(workdir: str | Path) -> Neighbours | None:
    """Loads `samples/nearest.npz`; None if there is no such file.

    Raises:
      FormatError: if it cannot be read or has other arrays; names it.
    """
    path = Path(workdir, layout.SAMPLES, layout.NEAREST)
    if not path.exists():
        return None
    arrays = read_arrays(path)
    names = [re.fullmatch("N([1-9][0-9]{0,8})_samples", name) for name in arrays]
    steps = [int(name[1]) for name in names if name]

    def take(name: str, kind: type[np.generic], axes: str) -> np.ndarray:
        if name not in arrays:
            raise FormatError(f"{path}: lacks {name}")
        check_array(arrays[name], kind, axes, name, path)
        return arrays[name]

    def pairs(n: int) -> Pairs:
        samples = take(f"N{n}_samples", np.uint8, "n h w c")
        near = take(f"N{n}_nearest", np.uint8, "n h w c")
        distances = take(f"N{n}_distances", np.float32, "n")
        if samples.shape != near.shape or len(samples) != len(distances):
            raise FormatError(f"{path}: the arrays of N{n} differ in length or shape")
        return Pairs(samples, near, distances)

    return Neighbours(
        take("real", np.uint8, "n h w c"),
        take("real_distances", np.float32, "k"),
        int(take("num_images", np.integer, "")),
        {n: pairs(n) for n in sorted(steps, reverse=True)},
    )
