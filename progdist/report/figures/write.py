"""All figures of a run."""

from pathlib import Path

from progdist.report.figures.curves import write_curves
from progdist.report.figures.quality import write_quality
from progdist.report.figures.samples import write_comparison, write_samples
from progdist.report.figures.trajectories import write_trajectories

_WRITERS = (
    write_quality,
    write_curves,
    write_trajectories,
    write_samples,
    write_comparison,
)


def write_figures(workdir: str | Path, folder: Path | None = None) -> list[Path]:
    """Writes the figures that can be drawn so far, light and dark.

    Args:
      workdir: folder of the run.
      folder: folder of the figures; by default `figures/` and `samples/` of the run.

    Returns:
      The paths of the light ones.

    Raises:
      FormatError: if a file of the run is malformed.
      OSError: if a figure cannot be written.
    """
    paths = [write(workdir, folder) for write in _WRITERS]
    return [path for path in paths if path]
