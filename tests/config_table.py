"""The tables of fields in configs/README.md, from the dataclasses of the configuration.

  python -m tests.config_table

writes them into the page. A test compares the two.
"""

import dataclasses
import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from progdist.config import (
    Config,
    Data,
    Distillation,
    Evaluation,
    Precision,
    Training,
)
from progdist.nets.settings import UNetConfig

PAGE = Path(__file__).parents[1] / "configs" / "README.md"
FENCE = re.compile(r"(<!-- fields -->\n).*(<!-- end of fields -->)", re.DOTALL)
NETS = (
    "These are the fields of a `UNetConfig`. Settings of other networks come from the "
    "teacher; see [nets/](../progdist/nets/README.md)."
)
GROUPS = {
    "config": Config,
    "config.data": Data,
    "config.net": UNetConfig,
    "config.base": Training,
    "config.distill": Distillation,
    "config.evaluation": Evaluation,
    "config.precision": Precision,
}


def tables() -> str:
    """A heading and a table for each group of fields."""
    return "\n".join(_table(group, cls) for group, cls in GROUPS.items())


def with_tables(page: str) -> str:
    """The page with its tables of fields replaced."""
    return FENCE.sub(lambda match: f"{match[1]}{tables()}\n{match[2]}", page)


def _table(group: str, cls: type[Any]) -> str:
    hints, meanings = get_type_hints(cls), _meanings(cls)
    lines = [f"### {group}", "", "| field | type | default | meaning |"]
    lines.append("|---|---|---|---|")
    inherited = set() if cls is not Distillation else set(Training.__annotations__)
    for field in dataclasses.fields(cls):
        if field.name in inherited - set(cls.__annotations__):
            continue
        kind = _kind(hints[field.name])
        if field.default is dataclasses.MISSING:
            default = f"[below](#{group}{field.name})".replace(".", "")
        else:
            default = f"`{field.default!r}`"
        cells = f"`{field.name}`", kind, default, meanings[field.name]
        lines.append(f"| {' | '.join(cells)} |")
    if inherited:
        lines += ["", "The other fields are those of `config.base`."]
    if cls is UNetConfig:
        lines += ["", NETS]
    return "\n".join([*lines, ""])


def _kind(hint: Any) -> str:
    """A type as a user writes its values."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        many = "some of " if get_origin(inner[0]) is Literal else "tuple of "
        return many + _kind(inner[0])
    if isinstance(hint, UnionType):
        return " or ".join(map(_kind, get_args(hint)))
    return getattr(hint, "__name__", str(hint))


def _meanings(cls: type[Any]) -> dict[str, str]:
    """The meaning of each field, from `Attributes:` of the docstring."""
    _, _, text = inspect.getdoc(cls).partition("Attributes:\n")
    entries = re.split(r"\n(?=  \w+: )", text.rstrip())
    pairs = (entry.strip().partition(": ") for entry in entries)
    return {name: " ".join(meaning.split()) for name, _, meaning in pairs}


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
