"""README of an exported folder: the model card, with the metadata of the Hub."""

import json
import math
import re
from typing import Any, NamedTuple

import jax

from progdist.model import Params
from progdist.sampling.cards import Card

_PAPER = "https://arxiv.org/abs/2202.00512"


class Usage(NamedTuple):
    """Use of a folder by one library.

    Attributes:
      library: its name on the Hub.
      tag: a further tag.
      lines: Markdown that says how to draw images.
      end: the last sentence of the page.
      schedule: the noise schedule in words, if not by its name.
    """

    library: str
    tag: str
    lines: list[str]
    end: str
    schedule: str = ""


def count(params: Params) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def model_card(card: Card, num_params: int, usage: Usage) -> str:
    """Returns the README of a model."""
    n, data = card["num_steps"], _subject(card)
    height, width, channels = card["image_shape"]
    size = f"{height}x{width} {'grey' if channels == 1 else 'RGB'}"
    calls = f"{n} network call{'s'[: n != 1]}"
    kind = "student" if card.get("phase") else "undistilled teacher"
    lines = [
        *_metadata(card, data, usage),
        f"# {_text(data)}, {size}, in {calls}",
        "",
        f"A diffusion model of {num_params:,} parameters that draws {size} images in "
        f"{calls}, by DDIM: {_origin(card, kind)}.",
        "",
        "![Samples](samples.png)",
        "",
        *_table(card),
        "## Draw images",
        "",
        *usage.lines,
        *_classes(card.get("class_names") or []),
        "",
        "## Where it comes from",
        "",
        f"{_history(card)} The network predicts {card['output']}; the noise schedule "
        f"is {usage.schedule or card['schedule']}. {usage.end}",
        "",
    ]
    return "\n".join(lines)


def _subject(card: Card) -> str:
    """Returns the name of the data, or that of the model that was converted."""
    return (card.get("data") or {}).get("name") or card.get("origin") or "images"


def _metadata(card: Card, data: str, usage: Usage) -> list[str]:
    """Returns the lines of metadata; the Hub indexes and shows them."""
    license = [f"license: {quoted(card['license'])}"] if card.get("license") else []
    lines = ["---", *license, f"library_name: {usage.library}", "tags:"]
    lines += ["- diffusion", "- progressive-distillation", f"- {usage.tag}"]
    if not card["num_classes"]:
        lines.append("pipeline_tag: unconditional-image-generation")
    rows = _own_rows(card)
    if rows:
        lines += ["model-index:", f"- name: {quoted(data)}", "  results:"]
    for row in rows:
        lines += [
            "  - task:",
            "      type: image-generation",
            "    dataset:",
            f"      name: {quoted(data)}",
            f"      type: {quoted(data)}",
            "    metrics:",
            f"    - type: {quoted(row['metric'])}",
            f"      value: {row['value']:#.6g}",  # without a point it is text
        ]
    return [*lines, "---", ""]


def _origin(card: Card, kind: str) -> str:
    if not card.get("phase"):
        return f"an {kind}"
    return f"a student of progressive distillation, round {card['phase']}"


def _table(card: Card) -> list[str]:
    """Returns the distances of this model in its own number of steps."""
    rows = _own_rows(card)
    if not rows:
        return []
    header = "| metric | compared with | value | floor | samples |"
    lines = ["## Distance to the data", "", header, "|---|---|---:|---:|---:|"]
    for row in rows:
        floor = row.get("floor") or {}
        bound = f"{floor['value']:.4g}" if "value" in floor else "–"
        lines.append(
            f"| {_text(row['metric'])} | {_reference(row)} | {row['value']:.4g} | "
            f"{bound} | {row['num_samples']:,} |"
        )
    text = "The floor is the metric between two disjoint halves of the data."
    return [*lines, "", text, ""]


def _reference(row: dict[str, Any]) -> str:
    """Returns the data that a row compares with."""
    reference = row.get("reference") or {}
    name, split = reference.get("data", "its data"), reference.get("split", "")
    return _text(f"{name} ({split})" if split else name)


def _own_rows(card: Card) -> list[dict[str, Any]]:
    """Returns the distances by DDIM, in the number of steps of the card."""
    own = card["num_steps"], "ddim"
    rows = (r for r in card.get("distances", []) if math.isfinite(r["value"]))
    return [row for row in rows if (row["num_steps"], row["sampler"]) == own]


def _history(card: Card) -> str:
    """Returns the sentence on the training, or on the model that was converted."""
    if card.get("origin") and not card.get("phase"):
        code = {"commit": card.get("exported_by")}
        return f"Converted from {_teacher(card)} by progdist{_commit(code)}."
    by = f"by progdist{_commit(card)}"
    after = f"after [Salimans & Ho, 2022]({_PAPER})"
    teacher = f", from the teacher {_teacher(card)}" if card.get("origin") else ""
    return f"Trained on {_training_data(card)} {by}, {after}{teacher}."


def _teacher(card: Card) -> str:
    """Returns the model that came from elsewhere, with its licence."""
    license = card.get("license")
    return _code(card["origin"]) + (f" (licence {_code(license)})" if license else "")


def _training_data(card: Card) -> str:
    data = card.get("data")
    if not data:
        return "images that its card does not name"
    name, split = _text(data["name"]), _text(data["split"])
    return f"{data['count']:,} images of {name} ({split})"


def _commit(card: Card) -> str:
    return f" ({_code(card['commit'])})" if card.get("commit") else ""


def _classes(classes: list[str]) -> list[str]:
    if not classes:
        return []
    shown = ", ".join(map(_code, classes[:20]))
    more = f" and {len(classes) - 20:,} more" * (len(classes) > 20)
    return ["", f"Classes: {shown}{more}."]


def quoted(text: str) -> str:
    """Returns a text as a literal of Python, which is one of YAML, too."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _text(text: str) -> str:
    """Returns Markdown that shows the text, also in a cell of a table."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", _printable(text))


def _code(text: str) -> str:
    """Returns a Markdown code span that shows the text."""
    text = _printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (fence != "`")
    return f"{fence}{space}{text}{space}{fence}"


def _printable(text: str) -> str:
    """Returns the text with "?" for what cannot be shown, such as line ends."""
    return "".join(c if c.isprintable() else "?" for c in text)
