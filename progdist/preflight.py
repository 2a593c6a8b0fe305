"""Checks of a run's data, model and devices before the run starts.

Nothing has been compiled or written by then. Refuses batches that the devices cannot
share, and unsuitable data or teachers.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdist import checkpoint, data, model as models
from progdist.config import Config, ConfigError, Data, net_from_dict
from progdist.config.check import require
from progdist.diffusion.schedules import describe
from progdist.model import Model, param_shapes
from progdist.nets.settings import NetConfig, UNetConfig, norm_groups, released_groups
from progdist.workdir import layout
from progdist.workdir.bucket import is_url
from progdist.workdir.copies import local
from progdist.workdir.provenance import memory_bytes


def make_model(config: Config) -> Model:
    """Returns the configured model."""
    return models.make_model(
        config.net,
        parameterization=config.parameterization,
        schedule=models.schedule_of(config.schedule, config.net),
        image_shape=config.data.image_shape,
        precision=config.precision.training,
    )


class Models(NamedTuple):
    """The configured model, in the precision of each of its uses."""

    training: Model
    target: Model
    sampling: Model


def make_models(config: Config) -> Models:
    """Returns the configured model for each of its uses."""
    model, precision = make_model(config), config.precision
    of = (precision.training, precision.target, precision.sampling)
    return Models(*(model._replace(precision=value) for value in of))


def check_devices(config: Config, num_devices: int) -> None:
    """Refuses batches that the devices cannot share evenly.

    Raises:
      ConfigError: naming the batch size.
    """
    for name in ("base", "distill", "evaluation"):
        size = getattr(config, name).batch_size
        rule = f"a multiple of the {num_devices} devices"
        require(size % num_devices == 0, f"config.{name}.batch_size", size, rule)


def check_precision(config: Config, platform: str) -> None:
    """Refuses precisions that the platform lacks.

    Raises:
      ConfigError: naming the field.
    """
    accepted = models.precisions_of(platform)
    for name, value in dataclasses.asdict(config.precision).items():
        rule = f"{', '.join(accepted[:-1])} or {accepted[-1]} on this {platform}"
        require(value in accepted, f"config.precision.{name}", value, rule)


def check_dtype(config: Config) -> None:
    """Refuses a dtype whose rounding outweighs the loss.

    The loss multiplies errors of an output x near data, and of an output eps near
    noise.

    Raises:
      ConfigError: naming the field.
    """
    ok = config.net.dtype == "float32" or config.parameterization in ("v", "both")
    rule = f"float32 for config.parameterization={config.parameterization!r}"
    require(ok, "config.net.dtype", config.net.dtype, rule)


def check_memory(config: Config, num_processes: int) -> None:
    """Refuses batches and samples whose images alone exceed this machine's memory.

    Raises:
      ConfigError: naming the field.
    """
    memory = memory_bytes()
    pixels = math.prod(config.data.image_shape)
    sizes = {
        f"{name}.batch_size": 4 * getattr(config, name).batch_size // num_processes
        for name in ("base", "distill", "evaluation")
    }
    sizes["evaluation.num_samples"] = config.evaluation.num_samples
    for field, size in sizes.items():
        node, name = field.split(".")
        value = getattr(getattr(config, node), name)
        rule = f"such that its images fit into the memory of {memory:,} bytes"
        require(size * pixels <= memory, f"config.{field}", value, rule)


def open_source(config: Config) -> data.Source:
    """Opens the configured data.

    Raises:
      DataError: if it is missing, malformed or of another shape.
      ConfigError: if the network has classes, but not those of the data, or one of them
        has no image.
    """
    classes = config.net.num_classes
    source = open_data(config.data, classes)
    if classes not in (0, source.num_classes):
        rule = "0, since the data has no labels"
        if source.num_classes:
            rule = f"0 or {source.num_classes}, the number of classes of the data"
        require(False, "config.net.num_classes", classes, rule)
    # These declare their classes, and need not hold an image of each.
    is_declared = config.data.name in ("tfds", "random")
    empty = data.empty_classes(source) if classes and not is_declared else []
    if empty:
        others = f" and {len(empty) - 1} others" if empty[1:] else ""
        rule = f"0, since the data has no image of class {empty[0]!r}{others}"
        require(False, "config.net.num_classes", classes, rule)
    return source


def open_data(settings: Data, num_classes: int = 0) -> data.Source:
    """Opens data, for a network with this number of classes; 0 for any network.

    Raises:
      DataError: if it is missing, malformed or of another shape.
      InputError, BucketError: if it lies in a bucket that cannot be read.
    """
    return data.open_source(
        settings.name,
        settings.split,
        str(local(settings.dir)) if is_url(settings.dir) else settings.dir,
        settings.tfds_name,
        settings.image_shape,
        settings.skip_bad,
        settings.num_workers,
        settings.labels,
        num_classes,
        settings.background,
        settings.min_size,
    )


def check_teacher(
    config: Config,
    model: Model,
    class_names: Sequence[str] = (),
    path: Path | None = None,
) -> None:
    """Refuses a teacher with another network, parameterization, schedule or classes.

    Args:
      config: names the teacher, if any.
      model: model of the teacher's parameters.
      class_names: names of the data's classes.
      path: the teacher's directory or file; by default as configured.

    Raises:
      CheckpointError: if it is missing, or belongs to another network.
      ConfigError: if its parameterization, schedule or number of steps differs.
    """
    if not config.teacher:
        return
    path = path or local(config.teacher, layout.is_of_model)
    card = checkpoint.check_model(path, param_shapes(model))
    check_card(model, path, card)
    _check_hidden(path, card, config.net)
    check_num_steps(config, path, card)
    if model.num_classes:
        check_classes(path, card.get("class_names", ()), class_names)


def check_num_steps(config: Config, path: Path | str, card: dict[str, Any]) -> None:
    """Refuses a student as a teacher for other steps than its own.

    Raises:
      ConfigError: naming both numbers.
    """
    # Of a released file only that number is known, and only if it is a student.
    is_student = card.get("phase", "num_steps" in card)
    if is_student and card["num_steps"] != config.distill.start_steps:
        raise ConfigError(
            f"config.teacher={path}: its num_steps is {card['num_steps']}, the "
            f"configuration has {config.distill.start_steps}"
        )


def _check_hidden(path: Path, card: dict[str, Any], net: NetConfig) -> None:
    """Refuses a teacher with other settings that its parameters' shapes do not show."""
    if not isinstance(net, UNetConfig):
        check_settings(path, card, net)
        return
    is_released = path.is_file() and path.suffix != ".safetensors"
    without = {"num_groups": released_groups(net) if is_released else 0}
    theirs = card.get("net", without).get("num_groups", 0)
    if norm_groups(net, theirs) != norm_groups(net):
        raise ConfigError(
            f"config.teacher={path}: was trained with net.num_groups={theirs}, the "
            f"configuration has {net.num_groups}"
        )


def check_settings(path: Path | str, card: dict[str, Any], net: NetConfig) -> None:
    """Refuses a teacher whose network has other settings, except dtype and remat.

    Args:
      path: its path, for the message.
      card: its card; without a network it counts as equal.
      net: the configured network.

    Raises:
      ConfigError: naming the first field that differs.
    """
    ours = dataclasses.asdict(net.portable())
    theirs = dataclasses.asdict(net_from_dict(card.get("net", ours)).portable())
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ConfigError(
                f"config.teacher={path}: was trained with net.{name}="
                f"{theirs.get(name)!r:.60}, the configuration has {value!r:.60}"
            )


def check_classes(path: Path | str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses a model whose class of some number has another name in the data.

    Raises:
      ConfigError: naming the first such class.
    """
    for number, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        # Classes without names are called by their numbers.
        if their != our and str(number) not in (their, our):
            raise ConfigError(
                f"config.teacher={path}: its class {number} is {their!r}, that of the "
                f"data {our!r}"
            )


def check_card(model: Model, path: Path | str, card: dict[str, Any]) -> None:
    """Refuses a model with another parameterization, schedule or image shape.

    Args:
      model: the configured model.
      path: path of the other model, for the message.
      card: card of the other model; missing fields count as equal.

    Raises:
      ConfigError: if they differ.
    """
    ours = {
        "output": model.parameterization,
        "schedule": describe(model.schedule),
        "image_shape": list(model.image_shape),
    }
    for name, value in ours.items():
        if card.get(name, value) != value:
            raise ConfigError(
                f"{path}: its {name} is {card[name]!r}, the configuration has {value!r}"
            )
