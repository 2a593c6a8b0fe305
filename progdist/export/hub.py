"""A model as a folder that the Hugging Face Hub shows and `progdist.load` opens.

config.json is the card, model.safetensors the parameters with the card, README.md the
model card, and samples.png its picture.
"""

import json
from pathlib import Path

import jax
import numpy as np

from progdist import report
from progdist.export import formats, model_card as model_cards
from progdist.export.model_card import Usage, quoted
from progdist.sampling.cards import Card
from progdist.sampling.pretrained import Pretrained
from progdist.workdir.files import write_bytes

_NUM_SAMPLES, _NUM_PER_CLASS, _MOST_CLASSES = 64, 8, 8
_SEED = 0


def write(directory: Path, pretrained: Pretrained, card: Card) -> None:
    """Writes the folder.

    Raises:
      SaveError: if the parameters cannot be written.
      NonFiniteError: if the model draws images that are not finite.
    """
    directory.mkdir()
    params = jax.tree.map(np.asarray, pretrained.params)
    texts = {
        "config.json": json.dumps({"library_name": "progdist"} | card, indent=2) + "\n",
        "README.md": model_card(card, model_cards.count(params)),
    }
    for name, text in texts.items():
        write_bytes(directory / name, text.encode())
    formats.write_safetensors(directory / "model.safetensors", params, card)
    write_samples(directory / "samples.png", pretrained)


def model_card(card: Card, num_params: int) -> str:
    """Returns the README of a model, with the metadata that the Hub reads."""
    height, width, channels = card["image_shape"]
    classes = card.get("class_names") or []
    label = f"label={quoted(classes[0])}, " if classes else ""
    lines = [
        "```python",
        "import progdist",
        "",
        'model = progdist.load("PATH")  # this folder, or hf://OWNER/NAME',
        f"images = model.sample(16, {label}seed=0)",
        "```",
        "",
        f"`images` is uint8 [16, {height}, {width}, {channels}].",
    ]
    end = "`config.json` holds everything that the model needs."
    return model_cards.model_card(
        card, num_params, Usage("progdist", "jax", lines, end)
    )


def write_samples(path: Path, pretrained: Pretrained) -> None:
    """Writes a picture of images that the model draws, one row for each class."""
    classes = pretrained.class_names[:_MOST_CLASSES]
    if not classes:
        images = pretrained.sample(_NUM_SAMPLES, seed=_SEED)
        report.save_png(path, report.square_grid(images))
        return
    num = _NUM_PER_CLASS * len(classes)
    images = pretrained.sample(num, label=range(len(classes)), seed=_SEED)
    columns = images.reshape(_NUM_PER_CLASS, len(classes), *images.shape[1:])
    report.save_png(path, report.label_rows(columns.swapaxes(0, 1), classes))
