"""Checks of a configuration, its data and its model before the run starts.

Nothing has been compiled or written by then. Refuses invalid values, naming field,
value and rule; batches that the devices cannot share; and unsuitable data or teachers.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from PIL import ImageColor

from progdist import checkpoint, data, model as models, plan
from progdist.config import (
    Config,
    ConfigError,
    Data,
    Distillation,
    Evaluation,
    Training,
    from_json,
    plan_of,
)
from progdist.diffusion.schedules import describe, make_schedule
from progdist.errors import UsageError
from progdist.model import Model, param_shapes
from progdist.plan import Kind
from progdist.workdir import files, layout


def check(config: Config) -> None:
    """Refuses a configuration that cannot run.

    Raises:
      ConfigError: naming the first bad field, its value and what is accepted.
    """
    _check_types(config, "config")
    _check_data(config.data)
    try:
        config.net.check(config.data.image_shape)
    except ValueError as error:
        raise ConfigError(f"config.net.{error}") from None
    _check_training(config.base, "config.base")
    _check_training(config.distill, "config.distill")
    _check_rounds(config.distill)
    length = plan_of(config)[-1].end_update
    _require(length < 2**31, "updates of all phases", length, "below 2**31")
    _check_evaluation(config.evaluation)
    _check_seed(config.seed, "config.seed")
    _at_least(config, "config", 1, "log_every", "save_every", "keep_checkpoints")
    _at_least(config, "config", 0, "cpu_devices", "max_skipped", "stuck_seconds")
    _require(
        config.save_every % config.log_every == 0,
        "config.save_every",
        config.save_every,
        f"a multiple of config.log_every={config.log_every}",
    )


def long_averages(config: Config) -> list[str]:
    """Returns a line for each average whose memory is longer than a phase."""
    lines = []
    for kind in ("base", "distill"):
        training: Training = getattr(config, kind)
        n = min((p.num_updates for p in plan_of(config) if p.kind == kind), default=0)
        memory = 1 / (1 - training.ema_decay)
        if 0 < n < memory:
            lines.append(
                f"config.{kind}.ema_decay={training.ema_decay}: the average's memory "
                f"of {memory:,.0f} updates is longer than a phase of {n:,}; "
                + _of_average(training, n)
            )
    return lines


def _of_average(training: Training, num_updates: int) -> str:
    """Returns what a phase's average comes to, with or without a warm-up."""
    warmup = training.ema_warmup
    if warmup:
        memory = (num_updates + warmup) / (warmup - 1)
        return f"ema_warmup={warmup} shortens it to {memory:,.0f}"
    share = training.ema_decay**num_updates
    return f"it will be {share:.0%} the initial parameters; set ema_warmup"


def check_reference(config: Config) -> None:
    """Refuses a configuration whose data cannot be compared with images.

    Raises:
      ConfigError: naming the first bad field, its value and what is accepted.
    """
    _check_types(config, "config")
    _check_data(config.data)
    _check_evaluation(config.evaluation)


def open_run(path: str) -> tuple[Path, Config]:
    """Returns a run's directory and its configuration, checked.

    Raises:
      UsageError: if there is no such directory.
      ConfigError: if its configuration is missing or malformed.
    """
    workdir = files.expand(path).absolute()
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: no such directory")
    config = from_json(workdir / layout.CONFIG)
    check(config)
    return workdir, config


def make_model(config: Config) -> Model:
    """Returns the configured model."""
    return models.make_model(
        config.net,
        parameterization=config.parameterization,
        schedule=make_schedule(config.schedule),
        image_shape=config.data.image_shape,
    )


def make_models(config: Config) -> dict[Kind, Model]:
    """Returns the model of each kind of phase."""
    model = make_model(config)
    return {"base": model, "distill": model}


def open_model(config: Config, path: Path) -> Model:
    """Returns the model of a finished phase of the run, without its parameters.

    Raises:
      CheckpointError: if `path` holds no model.
      ConfigError: if it has another parameterization or schedule.
    """
    card = checkpoint.read_card(path)
    model = make_models(config)["distill" if card.get("phase") else "base"]
    check_card(model, path, card)
    return model


def check_devices(config: Config, num_devices: int) -> None:
    """Refuses batches that the devices cannot share evenly.

    Raises:
      ConfigError: naming the batch size.
    """
    for name in ("base", "distill", "evaluation"):
        size = getattr(config, name).batch_size
        rule = f"a multiple of the {num_devices} devices"
        _require(size % num_devices == 0, f"config.{name}.batch_size", size, rule)


def check_memory(config: Config, num_processes: int) -> None:
    """Refuses batches and samples whose images alone exceed this machine's memory.

    Raises:
      ConfigError: naming the field.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
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
        _require(size * pixels <= memory, f"config.{field}", value, rule)


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
        _require(False, "config.net.num_classes", classes, rule)
    # These declare their classes, and need not hold an image of each.
    is_declared = config.data.name in ("tfds", "random")
    empty = data.empty_classes(source) if classes and not is_declared else []
    if empty:
        others = f" and {len(empty) - 1} others" if empty[1:] else ""
        rule = f"0, since the data has no image of class {empty[0]!r}{others}"
        _require(False, "config.net.num_classes", classes, rule)
    return source


def open_data(settings: Data, num_classes: int = 0) -> data.Source:
    """Opens data, for a network with this number of classes; 0 for any network.

    Raises:
      DataError: if it is missing, malformed or of another shape.
    """
    return data.open_source(
        settings.name,
        settings.split,
        settings.dir,
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
    config: Config, model: Model, class_names: Sequence[str] = ()
) -> None:
    """Refuses a teacher with another network, parameterization, schedule or classes.

    Args:
      config: names the teacher, if any.
      model: model of the teacher's parameters.
      class_names: names of the data's classes.

    Raises:
      CheckpointError: if it is missing, or belongs to another network.
      ConfigError: if its parameterization, schedule or number of steps differs.
    """
    if not config.teacher:
        return
    path = files.expand(config.teacher)
    card = checkpoint.check_model(path, param_shapes(model))
    check_card(model, path, card)
    # A student is defined only at its own number of steps. Of a released file only that
    # number is known, and only if it is a student.
    is_student = card.get("phase", "num_steps" in card)
    if is_student and card["num_steps"] != config.distill.start_steps:
        raise ConfigError(
            f"config.teacher={path}: its num_steps is {card['num_steps']}, the "
            f"configuration has {config.distill.start_steps}"
        )
    if model.num_classes:
        _check_classes(path, card.get("class_names", ()), class_names)


def _check_classes(path: Path, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses a model whose class of some number has another name in the data."""
    for number, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        # Classes without names are called by their numbers.
        if their != our and str(number) not in (their, our):
            raise ConfigError(
                f"config.teacher={path}: its class {number} is {their!r}, that of the "
                f"data {our!r}"
            )


def check_card(model: Model, path: Path, card: dict[str, Any]) -> None:
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


def _require(ok: bool, field: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{field}={value!r}: must be {rule}")


def _at_least(node: Any, path: str, bound: int, *fields: str) -> None:
    for field in fields:
        value = getattr(node, field)
        _require(value >= bound, f"{path}.{field}", value, f"at least {bound}")


def _check_types(node: Any, path: str) -> None:
    """Requires every field to have its annotated type, or one of its Literal values."""
    hints: dict[str, Any] = get_type_hints(type(node))
    for name, hint in hints.items():
        value, field = getattr(node, name), f"{path}.{name}"
        if dataclasses.is_dataclass(get_args(hint)[0] if get_args(hint) else hint):
            names = " or ".join(c.__name__ for c in get_args(hint) or (hint,))
            _require(isinstance(value, hint), field, value, f"a {names}")
            _check_types(value, field)
        elif get_origin(hint) is Literal:
            _require(
                value in get_args(hint),
                field,
                value,
                "one of " + ", ".join(get_args(hint)),
            )
        elif get_origin(hint) is tuple:
            _check_tuple(value, get_args(hint)[0], field)
        else:
            ok = type(value) is hint or (hint is float and type(value) is int)
            _require(ok, field, value, f"of type {hint.__name__}")
            ok = type(value) is not int or abs(value) < 2**32
            _require(ok, field, value, "below 2**32")


def _check_tuple(value: Any, hint: Any, field: str) -> None:
    """Requires a tuple of integers, or of values of a Literal, at least one."""
    ok = isinstance(value, tuple)
    if get_origin(hint) is Literal:
        names = get_args(hint)
        ok = ok and len(value) > 0 and all(v in names for v in value)
        _require(ok, field, value, f"names of {', '.join(names)}, at least one")
    else:
        ok = ok and all(type(v) is int for v in value)
        _require(ok, field, value, "a tuple of integers")


def _check_data(data: Data) -> None:
    shape = data.image_shape
    ok = len(shape) == 3 and min(shape) >= 1 and shape[2] in (1, 3)
    _require(ok, "config.data.image_shape", shape, "(height, width, 1 or 3)")
    if data.name == "tfds":
        _require(bool(data.tfds_name), "config.data.tfds_name", "", "a TFDS dataset")
    if data.name == "folder":
        _require(bool(data.dir), "config.data.dir", "", "a directory or zip of images")
    if data.name == "arrays":
        _require(bool(data.dir), "config.data.dir", "", "an .npz or .npy file")
    rule = "a colour name or #rrggbb, or empty"
    ok = not data.background or _is_colour(data.background)
    _require(ok, "config.data.background", data.background, rule)
    ok = 0 <= data.skip_bad < 1
    _require(ok, "config.data.skip_bad", data.skip_bad, "at least 0, below 1")
    _at_least(data, "config.data", 1, "num_workers")
    _at_least(data, "config.data", 0, "min_size")


def _is_colour(text: str) -> bool:
    hexadecimal = re.fullmatch("#[0-9a-fA-F]{6}", text)
    return bool(hexadecimal) or text.lower() in ImageColor.colormap


def _check_evaluation(evaluation: Evaluation) -> None:
    path = "config.evaluation"
    ok = 0 <= evaluation.gamma <= 1
    _require(ok, f"{path}.gamma", evaluation.gamma, "0 to 1")
    _at_least(evaluation, path, 1, "batch_size", "grid_images")
    _at_least(evaluation, path, 2, "num_samples")
    rule = f"at most num_samples={evaluation.num_samples}"
    ok = evaluation.grid_images <= evaluation.num_samples
    _require(ok, f"{path}.grid_images", evaluation.grid_images, rule)
    _check_seed(evaluation.seed, f"{path}.seed")


def _check_seed(seed: int, field: str) -> None:
    _require(0 <= seed < 2**32, field, seed, "at least 0, below 2**32")


def _check_training(training: Training, path: str) -> None:
    _at_least(training, path, 1, "num_updates", "batch_size")
    _at_least(training, path, 0, "warmup_updates", "weight_decay", "clip_norm")
    _require(
        0 < training.learning_rate < float("inf"),
        f"{path}.learning_rate",
        training.learning_rate,
        "above 0 and finite",
    )
    for field in ("ema_decay", "dropout"):
        value = getattr(training, field)
        _require(0 <= value < 1, f"{path}.{field}", value, "in [0, 1)")
    warmup = training.ema_warmup
    _require(
        warmup == 0 or warmup >= 2, f"{path}.ema_warmup", warmup, "0, or 2 or more"
    )


def _check_rounds(distill: Distillation) -> None:
    path = "config.distill"
    _at_least(distill, path, 1, "end_steps", "start_steps")
    _at_least(distill, path, 2, "ratio")
    _at_least(distill, path, 0, "long_rounds")
    if distill.long_rounds:
        _at_least(distill, path, 1, "long_num_updates")
    most = plan.MOST_STEPS
    ok = distill.start_steps <= most
    _require(ok, f"{path}.start_steps", distill.start_steps, f"at most {most:,}")
    try:
        rounds = plan.num_rounds(distill.start_steps, distill.end_steps, distill.ratio)
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None
    rule = f"at most the {rounds} rounds"
    _require(
        distill.long_rounds <= rounds, f"{path}.long_rounds", distill.long_rounds, rule
    )
