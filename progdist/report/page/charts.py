"""The page's charts: each is drawn twice, for wide windows and for narrow ones.

Merely scaled down they would be illegible on a phone. The style sheet shows one.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from progdist.report.figures.curves import curves_figure
from progdist.report.figures.profiles import profiles_figure
from progdist.report.figures.quality import drawable, quality_figure, runs_figure
from progdist.report.figures.vector import inline_svg
from progdist.report.read.curves import Curve
from progdist.report.read.measures import Group
from progdist.report.read.run import Run

# Width and height in inches.
_ONE_RUN = (6.4, 4.0), (3.7, 3.5)
_SEVERAL_RUNS = (9.0, 4.6), (3.7, 4.4)
_CURVES = (9.0, 4.0), (3.9, 3.7)
_MOST_POINTS = 500  # of a curve; a screen has no more
_NAME_LENGTH = 20

Size = tuple[float, float]


def distance_chart(
    title: str, name: str, runs: Sequence[Run], groups: Sequence[Group | None]
) -> Markup:
    """Draws a metric of all runs; empty where nothing is to draw.

    Args:
      title: the metric.
      name: begins the ids in it.
      runs: the runs.
      groups: what each has measured of the metric.
    """
    every = [e for group in groups if group for e in group.evaluations]
    drawn = drawable(every)
    found = {
        _short(run.name, index): [e for e in group.evaluations if e in drawn]
        for index, (run, group) in enumerate(zip(runs, groups, strict=True))
        if group
    }
    if not drawn:
        return Markup()
    alt = f"{title} against network calls per image, as in the table"
    if len(runs) > 1:
        return _twice(lambda s: runs_figure(found, s), name, alt, _SEVERAL_RUNS)
    (only,) = found.values()
    return _twice(lambda s: quality_figure(only, s), name, alt, _ONE_RUN)


def training_chart(run: Run, name: str) -> Markup:
    """Draws loss and learning rate of all phases; empty where there are none."""
    if not run.curves:
        return Markup()
    curves = [_thin(curve) for curve in run.curves]
    alt = "Loss and learning rate against updates, phase by phase"
    return _twice(lambda s: curves_figure(curves, s), name, alt, _CURVES)


def profiles_chart(run: Run, name: str) -> Markup:
    """Draws the loss of all phases by log-SNR; empty where no row has it."""
    if not run.profiles:
        return Markup()
    alt = "Loss against the log-SNR of z_t, a chart for each phase"
    return _twice(lambda s: profiles_figure(run.profiles, s[0]), name, alt, _CURVES)


def _twice(
    draw: Callable[[Size], Figure], name: str, alt: str, sizes: tuple[Size, Size]
) -> Markup:
    wide, slim = (draw(size) for size in sizes)
    return Markup(
        inline_svg(wide, f"{name}-wide", alt, "chart wide")
        + inline_svg(slim, f"{name}-slim", alt, "chart slim")
    )


def _thin(curve: Curve) -> Curve:
    """Every k-th point, the last among them."""
    k = -(-len(curve.loss) // _MOST_POINTS)
    kept = slice((len(curve.loss) - 1) % k, None, k)
    return curve._replace(
        global_step=curve.global_step[kept],
        loss=curve.loss[kept],
        learning_rate=curve.learning_rate[kept],
    )


def _short(name: str, index: int) -> str:
    """A name that fits a chart; a number tells those that begin alike."""
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 4]}… ({index + 1})"
