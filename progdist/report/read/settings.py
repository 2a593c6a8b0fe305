"""The configuration of a run, as its config.json has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from progdist.workdir import layout
from progdist.workdir.files import read_regular
from progdist.workdir.rows import parse

Settings = dict[str, Any]


def read_settings(workdir: str | Path) -> Settings:
    """Returns the fields of config.json by name, such as "data.name".

    Empty if there is no such file.

    Raises:
      FormatError: if it is not a JSON object.
    """
    path = Path(workdir, layout.CONFIG)
    return flat(parse(read_regular(path), str(path))) if path.exists() else {}


def flat(config: Mapping[str, Any]) -> Settings:
    """Returns the values of a configuration by field."""
    fields = {}
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            fields[name] = value
    return fields
