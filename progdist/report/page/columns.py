"""Columns of the page's tables; those without any value are left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from progdist.report.read.evaluations import columns
from progdist.report.read.rounds import Round
from progdist.report.read.run import Run
from progdist.report.text import (
    NONE,
    duration_text,
    many_text,
    number_text,
    share_text,
)


class Column(NamedTuple):
    """A column of a table."""

    title: str
    cells: Sequence[str]
    total: str = ""


def filled(columns: Iterable[Column]) -> list[Column]:
    """Returns the columns that have a value."""
    return [c for c in columns if any(cell not in (NONE, "") for cell in c.cells)]


def filled_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the fields of rows that have a value, but for names of classes."""
    return [
        name
        for name in columns(rows)
        if name != "class_names" and any(row.get(name) is not None for row in rows)
    ]


def phase_columns(rounds: Sequence[Round]) -> list[Column]:
    """Returns the table of the phases: their size, time and cost."""
    updates = [_updates(r) for r in rounds]
    images, calls = [r.images for r in rounds], [r.calls for r in rounds]
    seconds, sampling = [r.seconds for r in rounds], [r.sampling for r in rounds]
    return filled(
        [
            Column("phase", [r.title for r in rounds], "all"),
            Column("N", [str(r.num_steps) for r in rounds]),
            Column("updates", updates, f"{sum(r.updates for r in rounds):,}"),
            Column("last loss", [number_text(r.loss) for r in rounds]),
            Column("images/s", [many_text(r.images_per_second) for r in rounds]),
            Column("TFLOP/s", [number_text(r.tflops) for r in rounds]),
            Column("utilisation", [share_text(r.utilisation) for r in rounds]),
            Column("images", list(map(many_text, images)), many_text(total(images))),
            Column(
                "network calls", list(map(many_text, calls)), many_text(total(calls))
            ),
            Column("training", *_durations(seconds)),
            Column("sampling", *_durations(sampling)),
            Column("time", _bars(seconds, sampling)),
        ]
    )


def start_columns(run: Run) -> list[Column]:
    """Returns the table of the starts of a run."""
    rows = [start.row for start in run.starts]
    updates = [row.global_step for row in rows]
    commits = [(row.commit or NONE)[:12] for row in rows]
    return filled(
        [
            Column("time", [row.time or NONE for row in rows]),
            Column("from update", [NONE if n is None else f"{n:,}" for n in updates]),
            Column("lasted", [duration_text(start.seconds) for start in run.starts]),
            Column("end", [start.how for start in run.starts]),
            Column("host", [row.host or NONE for row in rows]),
            Column("commit", [Markup("<code>{}</code>").format(c) for c in commits]),
        ]
    )


def facts(runs: Sequence[Run]) -> list[Column]:
    """Returns state, data and cost of the runs; a column becomes a row of the page."""
    calls = [total([r.calls for r in run.rounds]) for run in runs]
    seconds = [total([r.seconds for r in run.rounds]) for run in runs]
    return filled(
        [
            Column("state", [run.state for run in runs]),
            Column("updates", [run.progress for run in runs]),
            Column("data", [_data(run) for run in runs]),
            Column("training time", list(map(duration_text, seconds))),
            Column("wall time", [_wall_time(run) for run in runs]),
            Column("goodput", [str(run.goodput or NONE) for run in runs]),
            Column("network calls", list(map(many_text, calls))),
            Column("devices", [_devices(run) for run in runs]),
        ]
    )


def origin(runs: Sequence[Run]) -> list[Column]:
    """Returns code, versions and system of the runs, as `facts` does."""
    starts = [run.start for run in runs]
    versions = [start.versions or {} for start in starts]
    names = dict.fromkeys(name for of_run in versions for name in of_run)
    commits = [Markup("<code>{}</code>").format(s.commit or NONE) for s in starts]
    return filled(
        [
            Column("commit", commits if any(s.commit for s in starts) else []),
            *(Column(n, [str(v.get(n) or NONE) for v in versions]) for n in names),
            Column("system", [start.platform or NONE for start in starts]),
            Column("workdir", [run.name for run in runs]),
        ]
    )


def total(values: Sequence[int | float | None]) -> int | float | None:
    """Returns the sum; None if a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _updates(r: Round) -> str:
    if not r.planned or r.planned == r.updates:
        return f"{r.updates:,}"
    return Markup("{} <small>of {}</small>").format(f"{r.updates:,}", f"{r.planned:,}")


def _durations(seconds: Sequence[float | None]) -> tuple[list[str], str]:
    return list(map(duration_text, seconds)), duration_text(total(seconds))


def _bars(
    seconds: Sequence[float | None], sampling: Sequence[float | None]
) -> list[str]:
    """Returns a bar per phase: time of training, and of sampling for evaluation."""
    pairs = [(a or 0, b or 0) for a, b in zip(seconds, sampling, strict=True)]
    longest = max(map(sum, pairs), default=0)
    if not longest:
        return []
    part = Markup('<i class="{}" style="width: {:.1f}%"></i>')
    return [
        Markup('<span class="bar" aria-hidden="true">{}{}</span>').format(
            part.format("training", 100 * a / longest),
            part.format("sampling", 100 * b / longest),
        )
        for a, b in pairs
    ]


def _data(run: Run) -> str:
    shape = run.settings.get("data.image_shape")
    size = f", {'×'.join(map(str, shape))}" if isinstance(shape, list) else ""
    return f"{run.settings.get('data.name') or NONE}{size}"


def _wall_time(run: Run) -> str:
    several = f" in {len(run.starts)} starts" if len(run.starts) > 1 else ""
    return f"{duration_text(run.seconds)}{several}"


def _devices(run: Run) -> str:
    devices = run.start.devices
    if not devices:
        return NONE
    return f"{devices.get('count', NONE)} × {devices.get('kind', NONE)}"
