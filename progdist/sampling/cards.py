"""Cards of models: everything needed to draw from a model, and its origin.

| field                                        | content                               |
|----------------------------------------------|---------------------------------------|
| phase, num_steps                             | 0 for a base model; its N             |
| net, output, schedule, image_shape           | the model; output: parameterization   |
| precision                                    | of its training, target and sampling  |
| num_classes, class_names                     | 0 without classes; names by number    |
| data                                         | name, split, count and digest         |
| commit, versions                             | the code that trained it              |
| origin, license                              | of a converted model or teacher       |
| clip                                         | of its scheduler in diffusers         |
| distances                                    | rows of eval.jsonl of this model      |

A card is sealed with the parameters when a model is saved; its distances are added once
they have been measured.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from progdist import checkpoint, data, model as models
from progdist.checkpoint import CheckpointError
from progdist.config import (
    Config,
    ConfigError,
    Data,
    Precision,
    from_json,
    net_from_dict,
)
from progdist.config.check import check, require
from progdist.diffusion.schedules import describe
from progdist.errors import UsageError, not_one_of
from progdist.model import Model
from progdist.nets.types import MatmulPrecision
from progdist.plan import MOST_STEPS, Phase
from progdist.workdir import files, layout, provenance
from progdist.workdir.files import FormatError
from progdist.workdir.rows import CardRow, EvalRow, read_row, read_typed

Card = dict[str, Any]


def make_card(config: Config, phase: Phase, source: data.Source) -> Card:
    """Returns the card of a phase's model, without its distances."""
    settings = config.data
    return _of_config(config) | {
        "phase": phase.number,
        "num_steps": phase.num_steps,
        "class_names": list(source.class_names) if config.net.num_classes else [],
        "data": {
            "name": _data_name(settings),
            "split": settings.split,
            "count": len(source),
            "content": source.fingerprint,
        },
        "commit": provenance.code(),
        "versions": provenance.versions(),
    }


def read_card(path: Path) -> Card:
    """Returns the card of a model directory, with its distances, or of a file.

    Models of earlier versions are completed from the configuration of their run.

    Raises:
      CheckpointError: if there is no model, or it or its card is damaged.
    """
    card = checkpoint.read_card(path)
    if path.is_file():
        return _checked(card, path)
    if "net" not in card:
        card = _of_run(path) | card
    rows = read_typed(EvalRow, path / layout.DISTANCES)
    return _checked(card | {"distances": [row.to_json() for row in rows]}, path)


def write_distances(path: Path, rows: Iterable[EvalRow]) -> None:
    """Adds to a model directory the rows that measure this model.

    Rows of another model of the same phase, trained before, are left out, and so are
    times, so that equal models have equal cards.
    """
    card = checkpoint.read_card(path)
    params = checkpoint.digest_of(card)[:16]
    ours = [
        dataclasses.replace(row, milliseconds=None)
        for row in rows
        if (row.phase, row.trained_steps) == (card.get("phase"), card["num_steps"])
        and row.params in (None, params)
    ]
    lines = (json.dumps(row.to_json()) + "\n" for row in ours)
    files.write_bytes(path / layout.DISTANCES, "".join(lines).encode())


def model_of(card: Card, where: str, precision: MatmulPrecision | None = None) -> Model:
    """Returns the model that a card describes.

    Args:
      card: the card.
      where: its place, for the message.
      precision: precision of its products; by default that of its sampling, or
        "highest" where this platform has no such precision.

    Raises:
      UsageError: if this platform has no such precision.
      CheckpointError: if a field is missing, unknown or invalid.
    """
    try:
        config = Config(
            data=Data(image_shape=tuple(card["image_shape"])),
            net=net_from_dict(card["net"]),
            parameterization=card["output"],
            schedule=card["schedule"],
            precision=Precision(**card.get("precision", {})),
        )
        check(config)
        names, count = card.get("class_names", ()), config.net.num_classes
        require(len(names) in (0, count), "class_names", names, f"{count} names")
    except KeyError as error:
        raise CheckpointError(
            f"{where}: its card lacks {error}; a model of a version before "
            "0.3.0 can only be opened inside the workdir of its run"
        ) from None
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        first = str(error).partition("\n")[0]
        reason = f"its card was not written by this version of progdist ({first})"
        raise CheckpointError(f"{where}: {reason}") from None
    return models.make_model(
        config.net,
        parameterization=config.parameterization,
        schedule=models.schedule_of(config.schedule, config.net),
        image_shape=config.data.image_shape,
        precision=_on_this_platform(config.precision.sampling, precision),
    )


def _on_this_platform(
    of_card: MatmulPrecision, chosen: MatmulPrecision | None
) -> MatmulPrecision:
    """Returns the chosen precision, or else that of the card, if it exists here."""
    accepted = models.precisions_of(jax.default_backend())
    if chosen and chosen not in accepted:
        raise UsageError(f"precision={chosen}: {not_one_of(chosen, accepted)}")
    return chosen or (of_card if of_card in accepted else "highest")


def _data_name(settings: Data) -> str:
    """Returns the name of the data; a user's own is called as its file or folder."""
    is_own = settings.name in ("folder", "arrays")
    own = Path(settings.dir).stem if is_own else settings.tfds_name
    return own or settings.name


def origin_of(card: Card) -> Card:
    """Returns origin and license of a teacher's card, which its students inherit."""
    return {name: card[name] for name in ("origin", "license") if name in card}


def _of_config(config: Config) -> Card:
    """Returns the fields that describe the model of a configuration."""
    return {
        "net": dataclasses.asdict(config.net),
        "output": config.parameterization,
        "schedule": describe(models.schedule_of(config.schedule, config.net)),
        "image_shape": list(config.data.image_shape),
        "num_classes": config.net.num_classes,
        "precision": dataclasses.asdict(config.precision),
    }


def _of_run(path: Path) -> Card:
    """Returns what the configuration of a model's run says of the model, if any."""
    workdir = path.resolve().parent.parent
    with contextlib.suppress(ConfigError):
        return _of_config(from_json(workdir / layout.CONFIG))
    return {}


def _checked(card: Card, path: Path) -> Card:
    """Returns the card; refuses fields of other types."""
    try:
        row = read_row(CardRow, card, path)
        for distance in row.distances:
            read_row(EvalRow, distance, path, "distances")
        if row.num_steps > MOST_STEPS:
            raise FormatError(f"{path}: num_steps is above {MOST_STEPS:,}")
    except (ConfigError, FormatError) as error:
        raise CheckpointError(str(error)) from None
    return card
