"""Figures, tables and a page from the files of a run.

`read/` reads a workdir, `figures/` draws PNG files and SVG, `page/` writes the page
(`progdist report`). Needs no accelerator and imports no JAX. Every `write_*`
draws from the files that exist so far. That of a figure returns its path, and writes a
dark copy next to it; if there is nothing to draw yet, it writes nothing and returns
None.

Throughout, "teacher" means the undistilled model of phase 0, and a number of steps N
counts network calls.
"""

from progdist.report.figures.curves import write_curves
from progdist.report.figures.image_files import (
    fits_picture,
    picture_suffixes,
    read_notes,
    save_gif,
    save_image,
)
from progdist.report.figures.images import (
    image_grid,
    label_rows,
    least_upscale,
    save_png,
    square_grid,
    square_sides,
)
from progdist.report.figures.quality import write_quality
from progdist.report.figures.samples import (
    MAX_IN_GRID,
    write_comparison,
    write_grids,
    write_samples,
)
from progdist.report.figures.trajectories import write_trajectories
from progdist.report.figures.write import write_figures
from progdist.report.page.page import write_page
from progdist.report.page.tables import closing_table, markdown_table
from progdist.report.read.evaluations import read_evaluations
from progdist.report.read.goodput import read_goodput
from progdist.workdir.files import FormatError
from progdist.workdir.rows import EvalRow

__all__ = [
    "MAX_IN_GRID",
    "EvalRow",
    "FormatError",
    "closing_table",
    "fits_picture",
    "image_grid",
    "label_rows",
    "least_upscale",
    "markdown_table",
    "picture_suffixes",
    "read_evaluations",
    "read_goodput",
    "read_notes",
    "save_gif",
    "save_image",
    "save_png",
    "square_grid",
    "square_sides",
    "write_comparison",
    "write_curves",
    "write_figures",
    "write_grids",
    "write_page",
    "write_quality",
    "write_samples",
    "write_trajectories",
]
