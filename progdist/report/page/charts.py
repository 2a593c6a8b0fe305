"""Charts of the page, as SVG legible in wide windows and on phones."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from progdist.report.figures.curves import base_figure, rate_figure, round_figures
from progdist.report.figures.profiles import profile_figures
from progdist.report.figures.quality import COSTS, known_costs, quality_figure
from progdist.report.figures.vector import inline_svg
from progdist.report.read.curves import Curve
from progdist.report.read.evaluations import Group
from progdist.report.read.run import Run
from progdist.report.text import steps_text

_MOST_POINTS = 500  # per curve; a screen shows no more
_NAME_LENGTH = 20


class Training(NamedTuple):
    """Charts of the training of a run."""

    base: Markup  # "" if the base model was given
    rate: Markup
    rounds: list[Markup]


def distance_charts(
    title: str, name: str, runs: Sequence[Run], groups: Sequence[Group | None]
) -> list[Markup]:
    """Returns the charts of a metric over all runs; none if there is nothing to draw.

    Args:
      title: the metric.
      name: prefix of the ids in the SVG.
      runs: the runs.
      groups: each run's values of the metric, of at least one run.
    """
    of_runs = {
        _short(run.name, index): group
        for index, (run, group) in enumerate(zip(runs, groups, strict=True))
    }
    charts = []
    for cost in known_costs(groups):
        if figure := quality_figure(of_runs, [cost]):
            alt = f"{title} against {COSTS[cost]}"
            charts.append(_svg(figure, f"{name}-{cost}", alt))
    return charts


def training_charts(run: Run, name: str) -> Training | None:
    """Returns the charts of losses and learning rate; None if there are no phases."""
    if not run.curves:
        return None
    curves = [_thin(curve) for curve in run.curves]
    base, rounds = base_figure(curves), [curve for curve in curves if curve.phase]
    return Training(
        _svg(base, f"{name}-base", "Loss of the teacher") if base else Markup(),
        _svg(rate_figure(curves), f"{name}-rate", "Learning rate"),
        [
            _svg(figure, f"{name}-{curve.phase}", f"Loss of round {curve.phase}")
            for curve, figure in zip(rounds, round_figures(curves), strict=True)
        ],
    )


def profile_charts(run: Run, name: str) -> list[Markup]:
    """Returns a chart of the loss by log-SNR for each phase that has it."""
    return [
        _svg(
            figure,
            f"{name}-{profile.phase}",
            f"Loss by log-SNR of z_t, {steps_text(profile.num_steps)}",
        )
        for profile, figure in zip(
            run.profiles, profile_figures(run.profiles), strict=True
        )
    ]


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    return Markup(inline_svg(figure, name, alt))


def _thin(curve: Curve) -> Curve:
    """Returns every k-th point, up to and including the last."""
    k = -(-len(curve.loss) // _MOST_POINTS)
    points = slice((len(curve.loss) - 1) % k, None, k)
    return curve._replace(
        global_step=curve.global_step[points],
        step=curve.step[points],
        loss=curve.loss[points],
        learning_rate=curve.learning_rate[points],
    )


def _short(name: str, index: int) -> str:
    """Returns a name short enough for a chart; a number keeps names distinct."""
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 4]}… ({index + 1})"
