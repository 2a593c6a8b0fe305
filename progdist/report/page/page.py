"""The page about one or several runs: one self-contained HTML file.

It has no scripts; choices are radio buttons. The templates escape all text from files.
"""

import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from progdist.errors import InputError
from progdist.report.figures.style import DARK
from progdist.report.figures.vector import VARIABLES
from progdist.report.page.charts import (
    distance_charts,
    profile_charts,
    training_charts,
)
from progdist.report.page.columns import (
    facts,
    filled_names,
    origin,
    phase_columns,
    start_columns,
)
from progdist.report.page.headline import USUAL_STEPS, headline
from progdist.report.page.pictures import nearest, sample_grids, trajectories
from progdist.report.read.evaluations import Group, Kind, Line, columns, titles
from progdist.report.read.run import Run, load, with_own_names
from progdist.report.text import NONE, number_text, steps_text
from progdist.workdir import layout
from progdist.workdir.files import write_bytes

_TEMPLATES = Path(__file__).parent / "templates"
_COLUMNS = "student", "ratio", "ddim", "ancestral", "other"  # of each run


class Setting(NamedTuple):
    """A field of the configuration in all runs."""

    name: str
    values: list[Any]
    defaults: list[Any]  # shown where the value differs
    differs: list[bool]  # from the default

    @property
    def section(self) -> str:
        """Part of the configuration that has it."""
        return self.name.partition(".")[0] if "." in self.name else "run"

    @property
    def is_changed(self) -> bool:
        """Whether it differs from the default or between runs."""
        return any(self.differs) or any(v != self.values[0] for v in self.values)


class RunDistances(NamedTuple):
    """A metric in one run."""

    name: str
    group: Group
    lines: dict[int, Line]  # by number of steps
    columns: list[str]  # those of `_COLUMNS` that have values


class Distances(NamedTuple):
    """Values of one kind, in the runs that have them."""

    title: str
    runs: list[RunDistances]
    steps: list[int]
    charts: list[Markup]


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
        "value": _value,
        "steps": steps_text,
    }
    now = datetime.datetime.now(datetime.UTC)
    return environment.get_template("page.html").render(
        runs=runs,
        refresh=refresh,
        written=now.strftime("%Y-%m-%d %H:%M UTC"),
        dash=NONE,
        variables=VARIABLES,
        dark=DARK,
        headline=headline,
        metrics=distances(runs),
        grids=sample_grids(runs),
        usual_steps=USUAL_STEPS,
        nearest=[nearest(run) for run in runs],
        paths=[trajectories(run) for run in runs],
        facts=facts(runs),
        phases=[phase_columns(run.rounds) for run in runs],
        charts=[training_charts(run, f"curves-{i}") for i, run in enumerate(runs)],
        profiles=[profile_charts(run, f"profiles-{i}") for i, run in enumerate(runs)],
        fields=settings(runs),
        origin=origin(runs),
        starts=[start_columns(run) for run in runs],
        fields_of=filled_names,
    )


def distances(runs: Sequence[Run]) -> list[Distances]:
    """Returns the metrics of all runs; only values of one kind stand together."""
    kinds = list(dict.fromkeys(group.kind for run in runs for group in run.groups))
    names = titles(kinds)
    return [_distances(names[kind], kind, i, runs) for i, kind in enumerate(kinds)]


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


def _distances(title: str, kind: Kind, index: int, runs: Sequence[Run]) -> Distances:
    groups = [next((g for g in run.groups if g.kind == kind), None) for run in runs]
    of_runs = [
        _of_run(run, group)
        for run, group in zip(runs, groups, strict=True)
        if group is not None
    ]
    steps = sorted({n for of_run in of_runs for n in of_run.lines}, reverse=True)
    charts = distance_charts(title, f"distance-{index}", runs, groups)
    return Distances(title, of_runs, steps, charts)


def _of_run(run: Run, group: Group) -> RunDistances:
    lines = {line.num_steps: line for line in group.lines()}
    shown = [name for name in _COLUMNS if _has_values(lines.values(), name)]
    return RunDistances(run.name, group, lines, shown)


def _has_values(lines: Iterable[Line], column: str) -> bool:
    names = (column, "student_other") if column == "student" else (column,)
    return any(getattr(line, name) for line in lines for name in names)


def _value(value: Any) -> str:
    """Returns a JSON value as text: strings without quotes, anything else as JSON."""
    if isinstance(value, str) and value:
        return value
    return json.dumps(value, ensure_ascii=False)
