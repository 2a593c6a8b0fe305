"""Facts of a run: what it learns, with which network, on which devices, how long."""

import math
from collections.abc import Iterator
from pathlib import Path

import jax

from progdist import plan
from progdist.config import Config, plan_of
from progdist.data import Source
from progdist.data.progress import WIDTH
from progdist.model import Model, param_shapes

_BYTES = 4  # a parameter or a moment of Adam, float32


def fact_lines(
    config: Config, workdir: Path | str, model: Model, source: Source | None
) -> Iterator[str]:
    """Yields a line for each fact.

    Args:
      config: the configuration.
      workdir: directory of the run, in words.
      model: the model of phase 0.
      source: the data, if it could be opened.
    """
    facts = {
        "data": _data(config, source),
        "network": f"{type(config.net).__name__.removesuffix('Config')}, "
        f"{num_params(model):,} parameters, output {config.parameterization}, "
        f"{config.net.dtype}",
        "devices": _devices(config),
        "teacher": _teacher(config),
        "plan": plan.describe(plan_of(config)),
        "workdir": str(workdir),
    }
    for name, text in facts.items():
        is_path = name in ("teacher", "workdir")
        line = f"{name:11} {text}"
        yield line if is_path or len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def num_params(model: Model) -> int:
    """Returns the number of parameters."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(param_shapes(model)))


def model_bytes(model: Model) -> int:
    """Returns the size of a saved model."""
    return _BYTES * num_params(model)


def snapshot_bytes(config: Config, model: Model, teacher: Model | None = None) -> int:
    """Returns the size of a checkpoint, at most, of which a teacher is a part."""
    keeps_ema = config.distill.ema_decay > 0 or config.base.ema_decay > 0
    frozen = max(model_bytes(one) for one in (model, teacher) if one)
    return (3 + keeps_ema) * model_bytes(model) + frozen  # parameters and moments


def size_text(num_bytes: int) -> str:
    """Returns "769 kB", or "1.2 GB"."""
    size, units = num_bytes / 1000, ["kB", "MB", "GB"]
    while size >= 1000 and units[1:]:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def _teacher(config: Config) -> str:
    if not config.teacher:
        return "trained in phase 0"
    return config.teacher + ", learned in phase 0" * config.reparameterize


def _data(config: Config, source: Source | None) -> str:
    data = config.data
    name = f"{data.tfds_name or data.name} ({data.split})"
    shape = "x".join(map(str, data.image_shape))
    if source is None:
        return f"{name}, at {shape}"
    return f"{name}: {len(source):,} images at {shape}{_classes(source.class_names)}"


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    return f", {len(names)} classes: {shown}"


def _devices(config: Config) -> str:
    devices, processes = jax.devices(), jax.process_count()
    text = f"{len(devices)} x {devices[0].device_kind}"
    text += f", {processes} processes" * (processes > 1)
    groups = config.base.clip_groups, config.distill.clip_groups
    is_split = any(1 < count < len(devices) for count in groups)
    return text + ", two all-reduces per update (clip_groups)" * is_split
