"""Charts of the page, as SVG legible in wide windows and on phones."""

from collections.abc import Sequence

from markupsafe import Markup

from progdist.report.figures.curves import curves_figure
from progdist.report.figures.profiles import profile_figures
from progdist.report.figures.quality import drawable, quality_figure, runs_figure
from progdist.report.figures.vector import inline_svg
from progdist.report.read.curves import Curve
from progdist.report.read.evaluations import Group
from progdist.report.read.run import Run

_MOST_POINTS = 500  # per curve; a screen shows no more
_NAME_LENGTH = 20


def distance_chart(
    title: str, name: str, runs: Sequence[Run], groups: Sequence[Group | None]
) -> Markup:
    """Returns the chart of a metric over all runs; "" if there is nothing to draw.

    Args:
      title: the metric.
      name: prefix of the ids in the SVG.
      runs: the runs.
      groups: each run's values of the metric.
    """
    every = drawable([e for group in groups if group for e in group.evaluations])
    if not every:
        return Markup()
    evaluations = {
        _short(run.name, index): [e for e in group.evaluations if e in every]
        for index, (run, group) in enumerate(zip(runs, groups, strict=True))
        if group
    }
    figure = runs_figure(evaluations) if len(runs) > 1 else quality_figure(every)
    alt = f"{title} against network calls per image, as in the table"
    return Markup(inline_svg(figure, name, alt))


def training_chart(run: Run, name: str) -> Markup:
    """Returns the chart of loss and learning rate; "" if there are no phases."""
    if not run.curves:
        return Markup()
    figure = curves_figure([_thin(curve) for curve in run.curves])
    alt = "Loss and learning rate against updates, phase by phase"
    return Markup(inline_svg(figure, name, alt))


def profile_charts(run: Run, name: str) -> list[Markup]:
    """Returns a chart of the loss by log-SNR for each phase that has it."""
    figures = zip(run.profiles, profile_figures(run.profiles), strict=True)
    return [
        Markup(
            inline_svg(
                figure,
                f"{name}-{profile.phase}",
                f"Loss against the log-SNR of z_t, phase {profile.phase}",
            )
        )
        for profile, figure in figures
    ]


def _thin(curve: Curve) -> Curve:
    """Returns every k-th point, up to and including the last."""
    k = -(-len(curve.loss) // _MOST_POINTS)
    points = slice((len(curve.loss) - 1) % k, None, k)
    return curve._replace(
        global_step=curve.global_step[points],
        loss=curve.loss[points],
        learning_rate=curve.learning_rate[points],
    )


def _short(name: str, index: int) -> str:
    """Returns a name short enough for a chart; a number keeps names distinct."""
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 4]}… ({index + 1})"
