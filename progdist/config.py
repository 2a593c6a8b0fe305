"""The configuration: plain typed data.

A file in `configs/` returns a `Config`; `--config.base.learning_rate=3e-4` overrides
one field by name and type. What its values must be is checked by `preflight.check`.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from progdist.data.settings import ImageShape, Name
from progdist.diffusion.settings import Parameterization, ScheduleName, Weight
from progdist.errors import InputError
from progdist.nets.settings import NetConfig, UNetConfig
from progdist.plan import Phase, make_plan

Anneal = Literal["none", "linear"]

# Fields that may change when a run resumes.
_HARMLESS = (
    "log_every",
    "save_every",
    "keep_checkpoints",
    "max_skipped",
    "stuck_seconds",
    "cpu_devices",
    "data.dir",
    "data.num_workers",
    "evaluation.batch_size",
)


class ConfigError(InputError):
    """A value that cannot be used; the message names field, value and rule."""


@dataclasses.dataclass
class Data:
    """Images to train on and to compare samples with.

    Attributes:
      name: source of the images.
      split: "train" or "test"; for a folder "val" or "validation", too; for tfds any of
        its split expressions.
      dir: directory of the idx or image files, or of the prepared TFDS data.
      tfds_name: TFDS data set and its config, for name "tfds".
      image_shape: (height, width, channels).
      flip: mirror a random half of the images, left to right.
      skip_bad: share of a folder's files that may be bad, and are then left out.
      num_workers: threads that read and decode data too large for memory.
    """

    name: Name = "digits"
    split: str = "train"
    dir: str = ""
    tfds_name: str = ""
    image_shape: ImageShape = (8, 8, 1)
    flip: bool = False
    skip_bad: float = 0.0
    num_workers: int = 8


@dataclasses.dataclass
class Training:
    """Training of one kind of phase, by Adam.

    Attributes:
      num_updates: updates of the phase.
      batch_size: global batch size, over all devices.
      learning_rate: peak learning rate.
      warmup_updates: updates over which it rises linearly from 0.
      anneal: "linear" lets it fall to 0 over the phase.
      weight_decay: decoupled weight decay; 0 is none.
      clip_norm: bound on the global norm of the gradient; 0 is none.
      ema_decay: decay of the moving average of the parameters; 0 keeps none. The
        average, if there is one, samples, and teaches the next round.
      dropout: dropout rate in the network.
      weight: weight w(logsnr) of the squared error in x.
    """

    num_updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-4
    warmup_updates: int = 0
    anneal: Anneal = "none"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    dropout: float = 0.0
    weight: Weight = "truncated_snr"


@dataclasses.dataclass
class Distillation(Training):
    """The rounds: N falls from start_steps to end_steps by `ratio` a round.

    Attributes:
      anneal: "linear" by default, as in the paper.
      start_steps: DDIM steps of the first teacher.
      end_steps: DDIM steps of the last student.
      ratio: teacher steps that one student step replaces.
      long_rounds: number of final rounds that take `long_num_updates` updates.
      long_num_updates: updates of each of those rounds.
    """

    anneal: Anneal = "linear"
    start_steps: int = 1024
    end_steps: int = 1
    ratio: int = 2
    long_rounds: int = 0
    long_num_updates: int = 0


@dataclasses.dataclass
class Evaluation:
    """Evaluation after each phase.

    Attributes:
      num_samples: images behind each distance.
      batch_size: images sampled at a time, over all devices.
      gamma: noise level of the ancestral sampler, in [0, 1].
      seed: seed of the samples, apart from the training's.
      grid_images: images of the sample grids.
    """

    num_samples: int = 2048
    batch_size: int = 256
    gamma: float = 0.3
    seed: int = 0
    grid_images: int = 16


@dataclasses.dataclass
class Config:
    """A whole run: the teacher's training, then the rounds.

    Attributes:
      seed: seed of initialisation, data order and noise.
      schedule: noise schedule of every phase.
      parameterization: meaning of the network's output.
      teacher: path of a trained teacher (a directory of `models/`, an exported
        .safetensors or a released flax msgpack file); empty trains one in phase 0.
      data: images.
      net: the network; see `progdist.nets.settings`.
      base: training of the base model, in phase 0.
      distill: training of the rounds.
      evaluation: evaluation after each phase.
      log_every: updates between rows of metrics.jsonl.
      save_every: updates between checkpoints; a multiple of log_every.
      keep_checkpoints: number of latest checkpoints to keep.
      max_skipped: non-finite updates in a row that are skipped before the run stops.
      stuck_seconds: time without progress after which a process prints its stacks and
        ends; 0 is never. A compilation has to fit into it.
      cpu_devices: devices that a CPU is split into; 0 is one a core, as far as the
        batches allow.
    """

    seed: int = 0
    schedule: ScheduleName = "cosine"
    parameterization: Parameterization = "v"
    teacher: str = ""
    data: Data = dataclasses.field(default_factory=Data)
    net: NetConfig = dataclasses.field(default_factory=UNetConfig)
    base: Training = dataclasses.field(default_factory=Training)
    distill: Distillation = dataclasses.field(default_factory=Distillation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    log_every: int = 100
    save_every: int = 1000
    keep_checkpoints: int = 2
    max_skipped: int = 0
    stuck_seconds: int = 1800
    cpu_devices: int = 0


def plan_of(config: Config) -> tuple[Phase, ...]:
    """Returns the configured phases; a teacher from elsewhere is not trained.

    Raises:
      ValueError: if start_steps is not end_steps times a power of the ratio.
    """
    distill = config.distill
    return make_plan(
        base_updates=0 if config.teacher else config.base.num_updates,
        base_batch_size=config.base.batch_size,
        round_updates=distill.num_updates,
        round_batch_size=distill.batch_size,
        start_steps=distill.start_steps,
        end_steps=distill.end_steps,
        ratio=distill.ratio,
        long_rounds=distill.long_rounds,
        long_updates=distill.long_num_updates,
    )


def differences(old: Config, new: Config) -> list[str]:
    """Returns "field: old → new" of each field that changes what a run computes."""
    before, after = (_flatten(dataclasses.asdict(c)) for c in (old, new))
    return [
        f"{field}: {before.get(field)!r} → {value!r}"
        for field, value in after.items()
        if value != before.get(field) and field not in _HARMLESS
    ]


def defaults_of_changed(config: Config) -> dict[str, Any]:
    """Returns the default of each field, "data.name" say, whose value is another."""
    values, defaults = (_flatten(dataclasses.asdict(c)) for c in (config, Config()))
    return {f: v for f, v in defaults.items() if values.get(f, v) != v}


def to_json(config: Config) -> str:
    """Returns the configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(path: Path) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ConfigError: if the file is missing, is not JSON, or has a field of another name.
    """
    try:
        return _from_dict(Config, _current(json.loads(path.read_text())))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; is this the workdir of a run?"
        ) from None
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise ConfigError(f"{path}: not a configuration ({error})") from None


def _current(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields under their present names; `model` is of version 0.1.0."""
    if "model" in values:
        net = dict(values["model"])
        values = {k: v for k, v in values.items() if k != "model"}
        values |= {"parameterization": net.pop("output", "v"), "net": net}
    return values


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        classes = get_args(hints.get(name)) or (hints.get(name),)
        if dataclasses.is_dataclass(classes[0]):
            value = _from_dict(_class_of(value, classes), value)
        elif get_origin(hints.get(name)) is tuple:
            value = tuple(value)
        fields[name] = value
    return cls(**fields)


def _class_of(values: dict[str, Any], classes: Sequence[Any]) -> Any:
    """Returns the settings class, of a closed set of them, that has these fields."""
    for cls in classes:
        if set(values) <= {field.name for field in dataclasses.fields(cls)}:
            return cls
    return classes[0]


def _flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{path}{name}.") if nested else {path + name: value}
    return flat
