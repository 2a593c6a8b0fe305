"""Images drawn from the models of a run."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from progdist.report.text import steps_text
from progdist.workdir import layout
from progdist.workdir.arrays import (
    check_array,
    images_name,
    read_arrays,
    shape_text,
)
from progdist.workdir.files import FormatError


class Samples(NamedTuple):
    """Images drawn from the model of a phase in num_steps network calls."""

    images: UInt8[np.ndarray, "n h w ch"]
    num_steps: int
    phase: int

    @property
    def label(self) -> str:
        """Role of the model, and number of steps."""
        role = "student" if self.phase else "teacher"
        return f"{role}, {steps_text(self.num_steps)}"


def load_samples(workdir: str | Path, kind: str) -> list[Samples]:
    """Loads `samples/<kind>_*.npz`, by phase; kind is "phase" or "baseline".

    Raises:
      FormatError: if a file cannot be read or has other arrays; names it.
    """
    paths = sorted(Path(workdir, layout.SAMPLES).glob(f"{kind}_*.npz"))
    phases = [_load(path) for path in paths]
    for path, samples in zip(paths, phases, strict=True):
        shape, first = (s.images.shape[1:] for s in (samples, phases[0]))
        if shape != first:
            others = f"those of {paths[0]} {shape_text(first)}"
            raise FormatError(f"{path}: images are {shape_text(shape)}, {others}")
    return sorted(phases, key=lambda s: s.phase)


def _load(path: Path) -> Samples:
    arrays = read_arrays(path)
    name, missing = images_name(arrays, path), {"num_steps", "phase"} - set(arrays)
    if missing:
        raise FormatError(f"{path}: lacks {', '.join(sorted(missing))}")
    check_array(arrays[name], np.uint8, "n h w c", name, path)
    steps, phase = (
        _whole(arrays, "num_steps", 1, path),
        _whole(arrays, "phase", 0, path),
    )
    return Samples(arrays[name], steps, phase)


def _whole(arrays: dict[str, np.ndarray], name: str, least: int, path: Path) -> int:
    check_array(arrays[name], np.integer, "", name, path)
    value = int(arrays[name])
    if value < least:
        raise FormatError(f"{path}: {name} is {value}, not {least} or more")
    return value
