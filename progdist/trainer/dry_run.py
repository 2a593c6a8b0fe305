"""Plan of a run, in words, before it starts."""

import math
from collections.abc import Iterator
from pathlib import Path

import jax

from progdist import checkpoint, preflight
from progdist.config import Config, plan_of
from progdist.model import param_shapes
from progdist.plan import Phase
from progdist.workdir import layout

_BYTES = 4  # a parameter or a moment of Adam, float32


def describe(config: Config, workdir: Path) -> str:
    """Returns the data, network, devices, phases and output of a run, line by line.

    Opens the data and the devices, and runs the checks of a start; writes nothing.

    Raises:
      ConfigError: if the configuration does not fit the data or the devices.
      DataError: if the data is missing or malformed.
    """
    preflight.check_devices(config, jax.device_count())
    preflight.check_memory(config, jax.process_count())
    source, model = preflight.open_source(config), preflight.make_model(config)
    preflight.check_teacher(config, model, source.class_names)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(param_shapes(model)))
    rows = {
        "data": f"{_data(config)}: {len(source):,} images of {_shape(config)}"
        + _classes(source.class_names),
        "network": f"{type(config.net).__name__.removesuffix('Config')}, {count:,} "
        f"parameters, output {config.parameterization}, {config.net.dtype}",
        "devices": _devices(),
        "teacher": config.teacher or "trained in phase 0",
        "workdir": _workdir(workdir),
    }
    phases = plan_of(config)
    lines = [f"{name:11} {text}" for name, text in rows.items()]
    return "\n".join(
        [*lines, "", *_phases(config, phases), "", *_output(config, count)]
    )


def evaluation_passes(config: Config, phases: tuple[Phase, ...]) -> int:
    """Returns the network passes per image that a run's evaluations take.

    After each phase its model is sampled by DDIM, and the base model by DDIM and by the
    ancestral sampler, in the same number of steps.
    """
    settings = config.evaluation
    if not settings.enabled:
        return 0
    batches = -(-settings.num_samples // settings.batch_size)
    calls = sum(p.num_steps * (2 if p.kind == "base" else 3) for p in phases)
    return batches * settings.batch_size * calls


def training_passes(phases: tuple[Phase, ...]) -> int:
    """Returns the network passes per image that a run's updates take."""
    return sum(p.num_updates * p.batch_size * p.passes for p in phases)


def _data(config: Config) -> str:
    data = config.data
    return f"{data.tfds_name or data.name} ({data.split})"


def _shape(config: Config) -> str:
    height, width, channels = config.data.image_shape
    return f"{height}x{width}x{channels}"


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    return f", {len(names)} classes: {shown}"


def _devices() -> str:
    devices = jax.devices()
    text = f"{len(devices)} x {devices[0].device_kind}"
    processes = jax.process_count()
    return text + f", {processes} processes" * (processes > 1)


def _workdir(workdir: Path) -> str:
    steps = checkpoint.snapshot_steps(workdir / layout.CHECKPOINTS)
    if steps:
        return f"{workdir}, resumes at update {max(steps):,}"
    return f"{workdir}, " + ("exists" if workdir.exists() else "will be created")


def _phases(config: Config, phases: tuple[Phase, ...]) -> Iterator[str]:
    """Yields a table of the phases, and their share of the network passes."""
    training, sampling = training_passes(phases), evaluation_passes(config, phases)
    whole = training + sampling
    yield "phase       N      updates    batch   network passes"
    for phase in phases:
        name = "teacher" if phase.kind == "base" else f"round {phase.number}"
        passes = phase.num_updates * phase.batch_size * phase.passes
        yield (
            f"{name:9} {phase.num_steps:5,} {phase.num_updates:11,} "
            f"{phase.batch_size:8,}   {passes / whole:6.1%}"
        )
    yield f"evaluation {sampling / whole:.1%}"


def _output(config: Config, count: int) -> Iterator[str]:
    """Yields what the run will write, and how large it will be."""
    copies = 3 + (config.distill.ema_decay > 0 or config.base.ema_decay > 0)
    snapshot = _size(_BYTES * count * (copies + 1))  # and the teacher
    number = len(plan_of(config))
    yield f"writes      {config.keep_checkpoints} checkpoints of {snapshot}"
    yield f"            {number} models of {_size(_BYTES * count)}"
    if config.evaluation.enabled:
        yield "            samples, metrics, figures and report.html"


def _size(num_bytes: float) -> str:
    for unit in ("kB", "MB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
    return f"{num_bytes / 1000:.3g} GB"
