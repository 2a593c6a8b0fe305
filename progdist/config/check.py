"""Checks of the values of a configuration.

They need neither the data nor a device. Refuses invalid values, naming field, value and
rule.
"""

import dataclasses
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from PIL import ImageColor

from progdist import plan
from progdist.config.settings import (
    Config,
    ConfigError,
    Data,
    Distillation,
    Evaluation,
    Training,
    plan_of,
)


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
    ok = config.schedule != "timesteps" or hasattr(config.net, "timesteps")
    rule = "another one, since the network has no timesteps"
    require(ok, "config.schedule", config.schedule, rule)
    _check_training(config.base, "config.base")
    _check_training(config.distill, "config.distill")
    _check_rounds(config.distill)
    length = plan_of(config)[-1].end_update
    require(length < 2**31, "updates of all phases", length, "below 2**31")
    _check_evaluation(config.evaluation)
    _check_seed(config.seed, "config.seed")
    _at_least(config, "config", 1, "log_every", "save_every", "keep_checkpoints")
    _at_least(config, "config", 0, "cpu_devices", "max_skipped", "stuck_seconds")
    require(
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


def require(ok: bool, field: str, value: object, rule: str) -> None:
    """Refuses a field's value, unless it is ok.

    Raises:
      ConfigError: naming field, value and rule.
    """
    if not ok:
        raise ConfigError(f"{field}={value!r}: must be {rule}")


def _at_least(node: Any, path: str, bound: int, *fields: str) -> None:
    for field in fields:
        value = getattr(node, field)
        require(value >= bound, f"{path}.{field}", value, f"at least {bound}")


def _check_types(node: Any, path: str) -> None:
    """Requires every field to have its annotated type, or one of its Literal values."""
    hints: dict[str, Any] = get_type_hints(type(node))
    for name, hint in hints.items():
        value, field = getattr(node, name), f"{path}.{name}"
        if dataclasses.is_dataclass(get_args(hint)[0] if get_args(hint) else hint):
            names = " or ".join(c.__name__ for c in get_args(hint) or (hint,))
            require(isinstance(value, hint), field, value, f"a {names}")
            _check_types(value, field)
        elif get_origin(hint) is Literal:
            require(
                value in get_args(hint),
                field,
                value,
                "one of " + ", ".join(get_args(hint)),
            )
        elif get_origin(hint) is tuple:
            _check_tuple(value, get_args(hint)[0], field)
        else:
            ok = type(value) is hint or (hint is float and type(value) is int)
            require(ok, field, value, f"of type {hint.__name__}")
            ok = type(value) is not int or abs(value) < 2**32
            require(ok, field, value, "below 2**32")


def _check_tuple(value: Any, hint: Any, field: str) -> None:
    """Requires a tuple of numbers, or of values of a Literal, at least one."""
    ok = isinstance(value, tuple)
    if get_origin(hint) is Literal:
        names = get_args(hint)
        ok = ok and len(value) > 0 and all(v in names for v in value)
        require(ok, field, value, f"names of {', '.join(names)}, at least one")
    elif hint is float:
        ok = ok and all(type(v) in (int, float) for v in value)
        require(ok, field, value, "a tuple of numbers")
    else:
        ok = ok and all(type(v) is int for v in value)
        require(ok, field, value, "a tuple of integers")


def _check_data(data: Data) -> None:
    shape = data.image_shape
    ok = len(shape) == 3 and min(shape) >= 1 and shape[2] in (1, 3)
    require(ok, "config.data.image_shape", shape, "(height, width, 1 or 3)")
    if data.name == "tfds":
        require(bool(data.tfds_name), "config.data.tfds_name", "", "a TFDS dataset")
    if data.name == "folder":
        require(bool(data.dir), "config.data.dir", "", "a directory or zip of images")
    if data.name == "arrays":
        require(bool(data.dir), "config.data.dir", "", "an .npz or .npy file")
    rule = "a colour name or #rrggbb, or empty"
    ok = not data.background or _is_colour(data.background)
    require(ok, "config.data.background", data.background, rule)
    ok = 0 <= data.skip_bad < 1
    require(ok, "config.data.skip_bad", data.skip_bad, "at least 0, below 1")
    _at_least(data, "config.data", 1, "num_workers")
    _at_least(data, "config.data", 0, "min_size")


def _is_colour(text: str) -> bool:
    hexadecimal = re.fullmatch("#[0-9a-fA-F]{6}", text)
    return bool(hexadecimal) or text.lower() in ImageColor.colormap


def _check_evaluation(evaluation: Evaluation) -> None:
    path = "config.evaluation"
    ok = 0 <= evaluation.gamma <= 1
    require(ok, f"{path}.gamma", evaluation.gamma, "0 to 1")
    _at_least(evaluation, path, 1, "batch_size", "grid_images")
    _at_least(evaluation, path, 2, "num_samples")
    _at_least(evaluation, path, 0, "max_steps", "reference_images")
    rule = f"at most num_samples={evaluation.num_samples}"
    ok = evaluation.grid_images <= evaluation.num_samples
    require(ok, f"{path}.grid_images", evaluation.grid_images, rule)
    _check_seed(evaluation.seed, f"{path}.seed")


def _check_seed(seed: int, field: str) -> None:
    require(0 <= seed < 2**32, field, seed, "at least 0, below 2**32")


def _check_training(training: Training, path: str) -> None:
    _at_least(training, path, 1, "num_updates", "batch_size", "clip_groups")
    _at_least(training, path, 0, "warmup_updates", "weight_decay", "clip_norm")
    _at_least(training, path, 0, "micro_batch_size")
    _check_division(training, path)
    for field in ("adam_b1", "adam_b2"):
        value = getattr(training, field)
        require(0 <= value < 1, f"{path}.{field}", value, "in [0, 1)")
    ok = 0 < training.adam_eps < float("inf")
    require(ok, f"{path}.adam_eps", training.adam_eps, "above 0 and finite")
    require(
        0 < training.learning_rate < float("inf"),
        f"{path}.learning_rate",
        training.learning_rate,
        "above 0 and finite",
    )
    for field in ("ema_decay", "dropout"):
        value = getattr(training, field)
        require(0 <= value < 1, f"{path}.{field}", value, "in [0, 1)")
    warmup = training.ema_warmup
    require(warmup == 0 or warmup >= 2, f"{path}.ema_warmup", warmup, "0, or 2 or more")


def _check_division(training: Training, path: str) -> None:
    """Requires groups and micro-batches that divide the batch, and one the other."""
    batch, groups = training.batch_size, training.clip_groups
    rule = f"a divisor of batch_size={batch}"
    require(batch % groups == 0, f"{path}.clip_groups", groups, rule)
    micro = training.micro_batch_size or batch
    require(batch % micro == 0, f"{path}.micro_batch_size", micro, rule)
    fewer, more = sorted((micro, batch // groups))
    rule = f"a divisor or a multiple of a clip group's {batch // groups} images"
    require(more % fewer == 0, f"{path}.micro_batch_size", micro, rule)


def _check_rounds(distill: Distillation) -> None:
    path = "config.distill"
    _at_least(distill, path, 1, "end_steps", "start_steps")
    _at_least(distill, path, 2, "ratio")
    _at_least(distill, path, 0, "long_rounds")
    if distill.long_rounds:
        _at_least(distill, path, 1, "long_num_updates")
    most = plan.MOST_STEPS
    ok = distill.start_steps <= most
    require(ok, f"{path}.start_steps", distill.start_steps, f"at most {most:,}")
    try:
        rounds = plan.num_rounds(distill.start_steps, distill.end_steps, distill.ratio)
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None
    rule = f"at most the {rounds} rounds"
    require(
        distill.long_rounds <= rounds, f"{path}.long_rounds", distill.long_rounds, rule
    )
