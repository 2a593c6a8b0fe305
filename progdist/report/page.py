"""One page about one or several runs: a single HTML file that asks for nothing else.

It holds no script. Text from files is escaped by the templates; charts are SVG drawn by
Matplotlib, once for wide windows and once for narrow ones.
"""

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from progdist.report import measures
from progdist.report.curves import Curve, curves_figure
from progdist.report.images import data_uri, write_whole
from progdist.report.measures import Group, Line
from progdist.report.quality import quality_figure, runs_figure
from progdist.report.rounds import Round
from progdist.report.run import Run, load, with_own_names
from progdist.report.samples import Samples
from progdist.report.style import steps_text
from progdist.report.tables import NONE, number_text
from progdist.report.trajectories import visible
from progdist.report.vector import inline_svg

_TEMPLATES = Path(__file__).parent / "templates"
_WIDE, _SLIM = (7.4, 4.2), (3.7, 3.5)  # inches
_CURVES_WIDE, _CURVES_SLIM = (9.0, 4.0), (3.9, 3.7)
_MOST_POINTS = 500  # of a curve; a screen has no more
_IMAGES, _COLUMNS = 16, 4  # of a sample grid
_MOST_STEPS, _NOISES = 8, 3  # of the trajectories
_NAME_LENGTH = 20  # in a chart
_USUAL_STEPS = 4  # the student that the headline is about, where there is one


class Setting(NamedTuple):
    """A field of the configuration in all runs."""

    name: str
    values: list[Any]
    defaults: list[Any]  # where the value is another
    differs: list[bool]  # from the default

    @property
    def is_telling(self) -> bool:
        """Whether it differs from the default or between runs."""
        return any(self.differs) or any(v != self.values[0] for v in self.values)


class Distances(NamedTuple):
    """A metric over all runs."""

    title: str
    groups: list[Group | None]  # of each run
    steps: list[int]
    lines: list[dict[int, Line]]  # of each run, by number of steps
    has_other: bool
    chart: Markup


def write_page(workdirs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes the page about the runs and returns its path.

    Args:
      workdirs: at least one.
      out: the file; by default report.html in the workdir, or in the current directory
        if there are several.

    Raises:
      ValueError: if a workdir is none, or a file in it is malformed; names it.
    """
    runs = with_own_names([load(Path(workdir)) for workdir in workdirs])
    if out is None:
        out = Path(workdirs[0] if len(runs) == 1 else ".", "report.html")
    text = page(runs).encode()
    return write_whole(out, lambda file: file.write(text))


def page(runs: Sequence[Run]) -> str:
    """Returns the page about at least one run, as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_text,
        "many": _many,
        "duration": duration,
        "value": _value,
        "steps": steps_text,
    }
    now = datetime.datetime.now(datetime.UTC)
    return environment.get_template("page.html").render(
        runs=runs,
        written=now.strftime("%Y-%m-%d %H:%M UTC"),
        none=NONE,
        headline_of=_headline,
        metrics=distances(runs),
        grids=_samples(runs),
        usual_steps=_USUAL_STEPS,
        paths=[_trajectories(run) for run in runs],
        charts=[_curves_chart(run, index) for index, run in enumerate(runs)],
        total=_total,
        fields=settings(runs),
        version_names=measures.columns(r.noted.get("versions") or {} for r in runs),
        columns=measures.columns,
    )


def distances(runs: Sequence[Run]) -> list[Distances]:
    """Returns the measured distances of all runs, by metric."""
    titles = dict.fromkeys(group.title for run in runs for group in run.groups)
    return [
        _distances(title, index, runs) for index, title in enumerate(titles) if title
    ]


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Returns all fields of the configurations."""
    values = [dict(run.settings) for run in runs]
    defaults = [run.noted.get("defaults") or {} for run in runs]
    return [
        Setting(
            name,
            [v.get(name) for v in values],
            [d.get(name) for d in defaults],
            [name in d for d in defaults],
        )
        for name in measures.columns(values)
    ]


def duration(seconds: float | None) -> str:
    """A time for people: "41 s", "9 min 40 s", "3 h 12 min", "2 d 5 h"."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _distances(title: str, index: int, runs: Sequence[Run]) -> Distances:
    groups = [next((g for g in r.groups if g.title == title), None) for r in runs]
    lines = [{line.num_steps: line for line in g.lines()} if g else {} for g in groups]
    steps = sorted({n for of_run in lines for n in of_run}, reverse=True)
    has_other = any(line.other for of_run in lines for line in of_run.values())
    chart = _distance_chart(title, f"d{index}", runs, groups)
    return Distances(title, groups, steps, lines, has_other, chart)


def _distance_chart(
    title: str, name: str, runs: Sequence[Run], groups: Sequence[Group | None]
) -> Markup:
    found = {
        _short(run.name): group.evaluations
        for run, group in zip(runs, groups, strict=True)
        if group and group.evaluations
    }
    alt = f"{title} against network calls per image, as in the table"
    if not found:
        return Markup()

    def draw(size: tuple[float, float]) -> Any:
        if len(runs) > 1:
            return runs_figure(found, size)
        return quality_figure(next(iter(found.values())), size)

    return _two_sizes(draw, name, alt, _WIDE, _SLIM)


def _curves_chart(run: Run, index: int) -> Markup:
    if not run.curves:
        return Markup()
    curves = [_thin(curve) for curve in run.curves]
    alt = "Loss and learning rate against updates, phase by phase"

    def draw(size: tuple[float, float]) -> Any:
        return curves_figure(curves, size)

    return _two_sizes(draw, f"c{index}", alt, _CURVES_WIDE, _CURVES_SLIM)


def _two_sizes(draw: Any, name: str, alt: str, wide: Any, slim: Any) -> Markup:
    both = ((wide, "wide"), (slim, "slim"))
    return Markup(
        "".join(inline_svg(draw(s), f"{name}{c}", alt, f"chart {c}") for s, c in both)
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


def _headline(run: Run) -> dict[str, Any] | None:
    """What the page says first: a student beside its teacher."""
    if not run.groups:
        return None
    group = run.groups[0]
    lines = {line.num_steps: line for line in group.lines() if line.student}
    if not lines:
        return None
    best = lines.get(_USUAL_STEPS) or lines[min(lines)]
    last = lines[min(lines)]
    return {"group": group, "lines": [best] if best is last else [best, last]}


def _samples(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The sample grids: the teachers' at all their steps, and of each N all there is."""
    steps = {n for run in runs for n in (*run.students, *run.teachers)}
    if not steps:
        return None
    full = [max(run.teachers, default=None) for run in runs]
    fixed = [
        _grid(run, run.teachers[n], "teacher", len(runs))
        for run, n in zip(runs, full, strict=True)
        if n is not None
    ]
    panels = {
        n: list(_panel(runs, full, n)) for n in sorted(steps, reverse=True)
    }
    panels = {n: grids for n, grids in panels.items() if grids}
    return {"fixed": fixed, "panels": panels}


def _panel(
    runs: Sequence[Run], full: Sequence[int | None], n: int
) -> Iterator[dict[str, str]]:
    for run, most in zip(runs, full, strict=True):
        if n in run.students:
            yield _grid(run, run.students[n], "student", len(runs))
        if n in run.teachers and n != most:
            yield _grid(run, run.teachers[n], "teacher, not distilled", len(runs))


def _grid(run: Run, samples: Samples, who: str, num_runs: int) -> dict[str, str]:
    images = samples.images[:_IMAGES]
    steps = steps_text(samples.num_steps)
    return {
        "uri": data_uri(images, _COLUMNS),
        "run": run.name if num_runs > 1 else "",
        "who": who,
        "steps": steps,
        "alt": f"{len(images)} images of {run.name}: {who}, {steps}",
    }


def _trajectories(run: Run) -> dict[str, Any] | None:
    """The states of the students with few steps, a block a noise, a row a student."""
    paths = {n: run.paths[n] for n in sorted(run.paths, reverse=True)}
    paths = {n: states for n, states in paths.items() if n <= _MOST_STEPS}
    if not paths:
        return None
    noises = min(_NOISES, *(states.shape[1] for states in paths.values()), _NOISES)
    most = max(paths)
    blocks = [
        [
            (n, [_state(states[i, noise]) for i in range(len(states))])
            for n, states in paths.items()
        ]
        for noise in range(noises)
    ]
    return {"most": most, "blocks": blocks}


def _state(state: np.ndarray) -> str:
    shown = np.round(255 * visible(state)).astype(np.uint8)
    return data_uri(shown[None], 1)


def _total(rounds: Sequence[Round], name: str) -> Any:
    """The sum of a column; None where a phase does not have it."""
    values = [getattr(r, name) for r in rounds]
    return None if None in values or not values else sum(values)


def _many(count: float | None) -> str:
    """A large number in three digits: "960,000", "8.19 M"."""
    if count is None:
        return NONE
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _value(value: Any) -> str:
    """A value of a JSON file, as it is written there."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _short(name: str) -> str:
    long = len(name) > _NAME_LENGTH
    return f"{name[: _NAME_LENGTH - 1]}…" if long else name
