"""Pictures of the page: sample grids by number of steps, and trajectories."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from progdist.report.figures.images import data_uri
from progdist.report.figures.trajectories import visible
from progdist.report.read.neighbours import Pairs
from progdist.report.read.run import Run
from progdist.report.read.samples import Samples
from progdist.report.text import steps_text

_IMAGES, _COLUMNS = 16, 4  # of a sample grid
_MOST_STEPS, _NOISES = 8, 3  # of the trajectories
_PAIRS = 8  # samples of a student with their nearest training images


class Grid(NamedTuple):
    """A grid of samples of one model."""

    uri: str
    run: str  # name of the run; "" if it is the only one
    who: str
    steps: str
    alt: str


class Grids(NamedTuple):
    """The sample grids of all runs."""

    fixed: list[Grid]  # each teacher at its full number of steps, and real images
    panels: dict[int, list[Grid]]  # all others by number of steps, most first


class Trajectories(NamedTuple):
    """States of the last students of a run, as images."""

    most: int  # largest number of steps
    blocks: list[list[tuple[int, list[str]]]]  # by noise: number of steps, states


class Pair(NamedTuple):
    """A sample above its nearest training image, and their distance."""

    uri: str
    alt: str
    distance: float


class Student(NamedTuple):
    """Samples of a student with their nearest training images."""

    steps: str
    pairs: list[Pair]
    median: float  # of the distances


class Nearest(NamedTuple):
    """Nearest training images of a run's samples."""

    students: list[Student]
    real: float  # median distance of training images to the nearest other one
    num_images: int


def sample_grids(runs: Sequence[Run]) -> Grids | None:
    """Returns the sample grids of all runs; None if there are none yet."""
    full = [max(run.teachers, default=None) for run in runs]
    several = len(runs) > 1
    fixed = [
        _grid(run, run.teachers[n], "teacher", several)
        for run, n in zip(runs, full, strict=True)
        if n is not None
    ]
    fixed += _real(runs)
    steps = {n for run in runs for n in (*run.students, *run.teachers)}
    panels = {n: list(_panel(runs, full, n)) for n in sorted(steps, reverse=True)}
    panels = {n: panel for n, panel in panels.items() if panel}
    return Grids(fixed, panels) if steps else None


def trajectories(run: Run) -> Trajectories | None:
    """Returns the trajectories of the last students; None if there are none."""
    steps = [n for n in sorted(run.paths, reverse=True) if n <= _MOST_STEPS]
    if not steps:
        return None
    noises = min(_NOISES, *(run.paths[n].shape[1] for n in steps))
    blocks = [
        [(n, [_state(state) for state in run.paths[n][:, noise]]) for n in steps]
        for noise in range(noises)
    ]
    return Trajectories(steps[0], blocks)


def nearest(run: Run) -> Nearest | None:
    """Returns samples with their nearest training images; None if not yet known."""
    found = run.neighbours
    if not found or not found.students:
        return None
    students = [_student(n, pairs) for n, pairs in found.students.items()]
    real = float(np.median(found.real_distances))
    return Nearest(students, real, found.num_images)


def _student(n: int, pairs: Pairs) -> Student:
    steps = steps_text(n)
    columns = zip(*(array[:_PAIRS] for array in pairs), strict=True)
    shown = [
        Pair(
            data_uri(np.stack([sample, real]), 1),
            f"Sample {i} of the student, {steps}, above the nearest training image",
            float(distance),
        )
        for i, (sample, real, distance) in enumerate(columns, start=1)
    ]
    return Student(steps, shown, float(np.median(pairs.distances)))


def _panel(runs: Sequence[Run], full: Sequence[int | None], n: int) -> Iterator[Grid]:
    several = len(runs) > 1
    for run, most in zip(runs, full, strict=True):
        if n in run.students:
            yield _grid(run, run.students[n], "student", several)
        if n in run.teachers and n != most:
            yield _grid(run, run.teachers[n], "teacher, not distilled", several)


def _real(runs: Sequence[Run]) -> list[Grid]:
    """Returns real images, once for each data set."""
    grids = {}
    for run in runs:
        data = str(run.settings.get("data.name") or "the data")
        if run.neighbours and data not in grids:
            images = run.neighbours.real[:_IMAGES]
            alt = f"{len(images)} training images of {data}"
            uri = data_uri(images, _COLUMNS)
            grids[data] = Grid(uri, "", "real images", f"of {data}", alt)
    return list(grids.values())


def _grid(run: Run, samples: Samples, who: str, several: bool) -> Grid:
    images = samples.images[:_IMAGES]
    steps = steps_text(samples.num_steps)
    alt = f"{len(images)} images of {run.name}: {who}, {steps}"
    name = run.name if several else ""
    return Grid(data_uri(images, _COLUMNS), name, who, steps, alt)


def _state(state: Float[np.ndarray, "h w c"]) -> str:
    shown = np.round(255 * visible(state)).astype(np.uint8)
    return data_uri(shown[None], 1)
