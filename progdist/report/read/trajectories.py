"""States of a few samples from noise to image."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from progdist.workdir import layout
from progdist.workdir.arrays import check_array, read_arrays
from progdist.workdir.files import FormatError

Paths = dict[int, Float[np.ndarray, "states k h w c"]]


def load_trajectories(workdir: str | Path) -> Paths:
    """Loads `samples/trajectories.npz`: the states z_t, by number of steps.

    Raises:
      FormatError: if the file cannot be read or has other arrays; names it.
    """
    path = Path(workdir, layout.SAMPLES, "trajectories.npz")
    if not path.exists():
        return {}
    paths: Paths = {}
    for name, states in read_arrays(path).items():
        if not re.fullmatch("N[1-9][0-9]{0,8}", name):
            raise FormatError(f"{path}: an array is called {name!r:.40}, not N4 or N1")
        check_array(states, np.floating, "states k h w c", name, path)
        paths[int(name[1:])] = states
    _check_lengths(paths, path)
    return paths


def _check_lengths(paths: Paths, path: Path) -> None:
    shapes = {states.shape[1:] for states in paths.values()}
    if len(shapes) > 1:
        raise FormatError(f"{path}: the states differ in shape: {sorted(shapes)}")
    for n, states in paths.items():
        if len(states) != n + 1:
            raise FormatError(f"{path}: N{n} has {len(states)} states, not {n + 1}")
