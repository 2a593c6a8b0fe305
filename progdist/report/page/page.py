"""The page about one or several runs: one self-contained HTML file.

It has no scripts; choices are radio buttons. The templates escape all text from files.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from progdist.errors import InputError
from progdist.report.page.charts import distance_chart, profile_charts, training_chart
from progdist.report.page.pictures import sample_grids, trajectories
from progdist.report.read.evaluations import Group, Line, columns
from progdist.report.read.rounds import Round
from progdist.report.read.run import Run, load, with_own_names
from progdist.report.text import (
    NONE,
    duration_text,
    many_text,
    number_text,
    steps_text,
)
from progdist.workdir import layout
from progdist.workdir.files import write_bytes

_TEMPLATES = Path(__file__).parent / "templates"
_USUAL_STEPS = 4  # the page first shows the student with this many steps, if any


class Setting(NamedTuple):
    """A field of the configuration in all runs."""

    name: str
    values: list[Any]
    defaults: list[Any]  # shown where the value differs
    differs: list[bool]  # from the default

    @property
    def is_changed(self) -> bool:
        """Whether it differs from the default or between runs."""
        return any(self.differs) or any(v != self.values[0] for v in self.values)


class Distances(NamedTuple):
    """A metric over all runs."""

    title: str
    direction: str
    groups: list[Group | None]  # of each run
    steps: list[int]
    lines: list[dict[int, Line]]  # of each run, by number of steps
    chart: Markup


class Headline(NamedTuple):
    """First sentence about a run: its students compared with their teacher."""

    group: Group
    lines: list[Line]


def write_page(
    workdirs: Sequence[str | Path], out: str | Path | None = None, refresh: int = 0
) -> Path:
    """Writes the page about the runs and returns its path.

    Args:
      workdirs: at least one.
      out: path of the page; by default report.html in the workdir, or in the current
        directory for several.
      refresh: seconds after which the page reloads itself; 0 for never.

    Raises:
      InputError: if a path is not a workdir or occurs twice, or a file is malformed.
    """
    paths = [Path(workdir) for workdir in workdirs]
    check_distinct(paths)
    runs = with_own_names([load(path) for path in paths])
    return write_bytes(
        page_path(paths, out), page(runs, refresh).encode(errors="replace")
    )


def check_distinct(workdirs: Sequence[Path]) -> None:
    """Raises an InputError if a workdir occurs twice."""
    for index, path in enumerate(workdirs):
        if path.resolve() in [other.resolve() for other in workdirs[:index]]:
            raise InputError(f"{path}: given twice")


def page_path(workdirs: Sequence[Path], out: str | Path | None) -> Path:
    """Returns the path of the page; see `write_page`."""
    if out is not None:
        return Path(out)
    return Path(workdirs[0] if len(workdirs) == 1 else ".", layout.REPORT)


def page(runs: Sequence[Run], refresh: int = 0) -> str:
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
        "many": many_text,
        "duration": duration_text,
        "value": _value,
        "steps": steps_text,
    }
    now = datetime.datetime.now(datetime.UTC)
    return environment.get_template("page.html").render(
        runs=runs,
        refresh=refresh,
        written=now.strftime("%Y-%m-%d %H:%M UTC"),
        dash=NONE,
        headline_of=headline,
        metrics=distances(runs),
        grids=sample_grids(runs),
        usual_steps=_USUAL_STEPS,
        paths=[trajectories(run) for run in runs],
        charts=[training_chart(run, f"curves-{i}") for i, run in enumerate(runs)],
        profiles=[profile_charts(run, f"profiles-{i}") for i, run in enumerate(runs)],
        total=_total,
        fields=settings(runs),
        version_names=columns(r.start.versions or {} for r in runs),
        columns=columns,
    )


def headline(run: Run) -> Headline | None:
    """Returns the students with 4 and with the fewest steps; None if there are none."""
    group = run.groups[0] if run.groups else None
    lines = {n.num_steps: n for n in group.lines() if n.student} if group else {}
    if not group or not lines:
        return None
    fewest = min(lines)
    shown = [lines[n] for n in (_USUAL_STEPS, fewest) if n in lines and n >= fewest]
    return Headline(group, list(dict.fromkeys(shown)))


def distances(runs: Sequence[Run]) -> list[Distances]:
    """Returns the metrics of all runs."""
    titles = dict.fromkeys(group.title for run in runs for group in run.groups)
    return [_distances(title, i, runs) for i, title in enumerate(titles)]


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Returns all fields of the configurations."""
    values = [run.settings for run in runs]
    defaults = [run.start.defaults or {} for run in runs]
    return [
        Setting(
            name,
            [v.get(name) for v in values],
            [d.get(name) for d in defaults],
            [name in d for d in defaults],
        )
        for name in columns(values)
    ]


def _distances(title: str, index: int, runs: Sequence[Run]) -> Distances:
    groups = [next((g for g in r.groups if g.title == title), None) for r in runs]
    lines = [{line.num_steps: line for line in g.lines()} if g else {} for g in groups]
    steps = sorted({n for of_run in lines for n in of_run}, reverse=True)
    chart = distance_chart(title, f"distance-{index}", runs, groups)
    direction = next(g.direction for g in groups if g)
    return Distances(title, direction, groups, steps, lines, chart)


def _total(rounds: Sequence[Round], name: str) -> Any:
    """Returns the sum of a column; None if a phase lacks it."""
    values = [getattr(r, name) for r in rounds]
    return None if None in values or not values else sum(values)


def _value(value: Any) -> str:
    """Returns a JSON value as text: strings without quotes, anything else as JSON."""
    if isinstance(value, str) and value:
        return value
    return json.dumps(value, ensure_ascii=False)
