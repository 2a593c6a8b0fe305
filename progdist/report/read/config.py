"""The fields of config.json that are drawn or counted with."""

from pathlib import Path
from typing import Any

from progdist.workdir.rows import FormatError, is_whole, parse

_OBJECTS = ("data", "base", "distill")
_COUNTS = (("base", "batch_size"), ("distill", "batch_size"), ("distill", "ratio"))


def read_config(path: Path) -> dict[str, Any]:
    """Reads config.json; empty where there is none.

    Raises:
      FormatError: if it is malformed.
    """
    if not path.exists():
        return {}
    config = parse(path.read_bytes(), str(path))
    sections = {name: config.get(name, {}) for name in _OBJECTS}
    for name, section in sections.items():
        _check(isinstance(section, dict), path, name, "an object", section)
    for name, field in _COUNTS:
        count = sections[name].get(field, 1)
        accepted = "a whole number, 1 or more"
        _check(is_whole(count, 1), path, f"{name}.{field}", accepted, count)
    shape = sections["data"].get("image_shape", [])
    holds = isinstance(shape, list) and all(is_whole(n, 1) for n in shape)
    _check(holds, path, "data.image_shape", "a list of whole numbers", shape)
    return config


def _check(holds: bool, path: Path, name: str, accepted: str, value: Any) -> None:
    if not holds:
        raise FormatError(f"{path}: {name} is not {accepted}: {value!r:.60}")
