"""What a run's JSON files hold in the fields that are drawn or counted with.

Checked as the files are read, so that nothing behind has to ask. All else in the files
is shown as it stands.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from progdist.report.style import MOST
from progdist.workdir.rows import RowError, is_number, is_whole, parse, require


class _Accepted(NamedTuple):
    text: str
    holds: Callable[[Any], bool]


_NUMBER = _Accepted("a number", is_number)
_FINITE = _Accepted("a finite number", lambda v: is_number(v) and abs(v) < MOST)
_COUNT = _Accepted("a whole number, 0 or more", lambda v: is_whole(v, 0))
_ONE = _Accepted("a whole number, 1 or more", lambda v: is_whole(v, 1))
_TEXT = _Accepted("a string", lambda v: isinstance(v, str))
_OBJECT = _Accepted("an object", lambda v: isinstance(v, dict))
_SHAPE = _Accepted(
    "a list of whole numbers",
    lambda v: isinstance(v, list) and all(is_whole(n, 1) for n in v),
)

_METRICS = {
    "global_step": _COUNT,
    "phase": _COUNT,
    "step": _COUNT,
    "num_steps": _ONE,
    "loss": _NUMBER,
    "learning_rate": _FINITE,
}
_SPEED = {"steps_per_second": _NUMBER}
_CONFIG = {
    "data": _OBJECT,
    "base": _OBJECT,
    "distill": _OBJECT,
    "data.image_shape": _SHAPE,
    "base.batch_size": _ONE,
    "distill.batch_size": _ONE,
    "distill.ratio": _ONE,
}
_START = {
    "commit": _TEXT,
    "versions": _OBJECT,
    "devices": _OBJECT,
    "defaults": _OBJECT,
}


def metrics_row(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a row of metrics.jsonl; raises RowError if it is malformed."""
    _check(require(row, tuple(_METRICS), path), _METRICS, path)
    _check(_told(row), _SPEED, path)
    return row


def start_row(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a row of starts.jsonl; raises RowError if it is malformed."""
    _check(_told(row), _START, path)
    return row


def read_config(path: Path) -> dict[str, Any]:
    """Reads config.json; empty where there is none.

    Raises:
      RowError: if it is malformed.
    """
    if not path.exists():
        return {}
    config = parse(path.read_bytes(), str(path))
    _check(config, {n: a for n, a in _CONFIG.items() if "." not in n}, path)
    nested = {
        f"{section}.{name}": value
        for section, fields in config.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    }
    _check(nested, _CONFIG, path)
    return config


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name, value in row.items() if value is not None}


def _check(
    found: Mapping[str, Any], accepted: Mapping[str, _Accepted], path: Path
) -> None:
    for name, (text, holds) in accepted.items():
        if name in found and not holds(found[name]):
            raise RowError(f"{path}: {name} is not {text}: {found[name]!r:.60}")
