"""A model as a folder that the Hugging Face Hub shows and `progdist.load` opens.

config.json is the card, model.safetensors the parameters with the card, README.md the
model card, and samples.png its picture.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from progdist import report
from progdist.export import formats
from progdist.sampling.cards import Card
from progdist.sampling.pretrained import Pretrained
from progdist.workdir.files import write_bytes

_NUM_SAMPLES, _NUM_PER_CLASS, _MOST_CLASSES = 64, 8, 8
_SEED = 0
_PAPER = "https://arxiv.org/abs/2202.00512"


def write(directory: Path, pretrained: Pretrained, card: Card) -> None:
    """Writes the folder.

    Raises:
      SaveError: if the parameters cannot be written.
      NonFiniteError: if the model draws images that are not finite.
    """
    directory.mkdir()
    params = jax.tree.map(np.asarray, pretrained.params)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    texts = {
        "config.json": json.dumps({"library_name": "progdist"} | card, indent=2) + "\n",
        "README.md": model_card(card, num_params),
    }
    for name, text in texts.items():
        write_bytes(directory / name, text.encode())
    formats.write_safetensors(directory / "model.safetensors", params, card)
    _write_samples(directory / "samples.png", pretrained)


def model_card(card: Card, num_params: int) -> str:
    """Returns the README of a model, with the metadata that the Hub reads."""
    n, data = card["num_steps"], (card.get("data") or {}).get("name", "images")
    height, width, channels = card["image_shape"]
    size = f"{height}x{width} {'grey' if channels == 1 else 'RGB'}"
    classes = card.get("class_names") or []
    calls = f"{n} network call{'s'[: n != 1]}"
    kind = "student" if card.get("phase") else "undistilled teacher"
    lines = [
        *_metadata(card, data),
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
        "```python",
        "import progdist",
        "",
        'model = progdist.load("PATH")  # this folder, or hf://OWNER/NAME',
        f"images = model.sample(16, {_label(classes)}seed=0)",
        "```",
        "",
        f"`images` is uint8 [16, {height}, {width}, {channels}].",
        *_classes(classes),
        "",
        "## Where it comes from",
        "",
        f"Trained on {_training_data(card)} by progdist{_commit(card)}, "
        f"after [Salimans & Ho, 2022]({_PAPER}). The network predicts "
        f"{card['output']}; the noise schedule is {card['schedule']}. `config.json` "
        "holds everything that the model needs.",
        "",
    ]
    return "\n".join(lines)


def _metadata(card: Card, data: str) -> list[str]:
    """Returns the lines of metadata; the Hub indexes and shows them."""
    lines = ["---", "library_name: progdist", "tags:"]
    lines += ["- diffusion", "- progressive-distillation", "- jax"]
    if not card["num_classes"]:
        lines.append("pipeline_tag: unconditional-image-generation")
    rows = _own_rows(card)
    if rows:
        lines += ["model-index:", f"- name: {_quoted(data)}", "  results:"]
    for row in rows:
        lines += [
            "  - task:",
            "      type: image-generation",
            "    dataset:",
            f"      name: {_quoted(data)}",
            f"      type: {_quoted(data)}",
            "    metrics:",
            f"    - type: {_quoted(row['metric'])}",
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


def _training_data(card: Card) -> str:
    data = card.get("data")
    if not data:
        return "images that its card does not name"
    name, split = _text(data["name"]), _text(data["split"])
    return f"{data['count']:,} images of {name} ({split})"


def _commit(card: Card) -> str:
    return f" ({_code(card['commit'])})" if card.get("commit") else ""


def _label(classes: list[str]) -> str:
    return f"label={_quoted(classes[0])}, " if classes else ""


def _classes(classes: list[str]) -> list[str]:
    if not classes:
        return []
    shown = ", ".join(map(_code, classes[:20]))
    more = f" and {len(classes) - 20:,} more" * (len(classes) > 20)
    return ["", f"Classes: {shown}{more}."]


def _quoted(text: str) -> str:
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


def _write_samples(path: Path, pretrained: Pretrained) -> None:
    classes = pretrained.class_names[:_MOST_CLASSES]
    if not classes:
        images = pretrained.sample(_NUM_SAMPLES, seed=_SEED)
        report.save_png(path, report.square_grid(images))
        return
    num = _NUM_PER_CLASS * len(classes)
    images = pretrained.sample(num, label=range(len(classes)), seed=_SEED)
    columns = images.reshape(_NUM_PER_CLASS, len(classes), *images.shape[1:])
    report.save_png(path, report.label_rows(columns.swapaxes(0, 1), classes))
