"""The configuration: plain typed data, and the check that refuses a bad one.

A file in `configs/` returns a `Config`; `--config.base.learning_rate=3e-4` overrides
one field by name and type. Everything that can be known to be wrong before a device is
touched is refused by `check`, with the field, what was found and what is accepted.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from progdist import data, losses, progressive, state
from progdist.diffusion import prediction, schedules

DType = Literal["float32", "bfloat16"]

# Fields that a run may change when it goes on.
_HARMLESS = ("save_every", "keep_checkpoints", "cpu_devices", "data.dir")


class ConfigError(ValueError):
    """A value that cannot be used; the message names field, value and rule."""


@dataclasses.dataclass
class Data:
    """Which images.

    Attributes:
      name: where they come from.
      split: "train" or "test"; for tfds any of its split expressions.
      dir: directory of the idx files or of the prepared TFDS data.
      tfds_name: the TFDS data set and its config, for name "tfds".
      image_shape: (height, width, channels).
      flip: mirror a random half of the images, left to right.
    """

    name: data.Name = "digits"
    split: str = "train"
    dir: str = ""
    tfds_name: str = ""
    image_shape: tuple[int, int, int] = (8, 8, 1)
    flip: bool = False


@dataclasses.dataclass
class Model:
    """The U-Net; see `progdist.nets.unet.UNet`.

    Attributes:
      output: what the network puts out.
      head_dim: channels of an attention head; 0 leaves it to num_heads.
      num_classes: 0 ignores the labels.
      patch_size: squares of pixels folded into channels; 1 is the published network.
      dtype: of the computation; parameters are always float32.
      remat: recompute activations in the backward pass, to save memory.
    """

    output: prediction.Target = "v"
    ch: int = 64
    emb_ch: int = 256
    ch_mult: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    num_heads: int = 1
    head_dim: int = 0
    num_classes: int = 0
    patch_size: int = 1
    dtype: DType = "float32"
    remat: bool = False


@dataclasses.dataclass
class Training:
    """How one phase is trained, by Adam.

    Attributes:
      num_updates: updates of the phase.
      batch_size: global batch size, over all devices.
      learning_rate: at its highest.
      warmup_updates: updates over which it rises linearly from 0.
      anneal: "linear" lets it fall to 0 over the phase.
      weight_decay: decoupled; 0 is none.
      clip_norm: bound on the global norm of the gradient; 0 is none.
      ema_decay: of the moving average of the parameters; 0 is none. Where there is
        one, it is what samples, and what the next round learns from.
      dropout: rate in the network.
      weight: w(logsnr) of the squared error in x.
    """

    num_updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-4
    warmup_updates: int = 0
    anneal: state.Anneal = "none"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    dropout: float = 0.0
    weight: losses.Weight = "truncated_snr"


@dataclasses.dataclass
class Distillation(Training):
    """The rounds: N falls from start_steps to end_steps by `ratio` a round.

    Attributes:
      anneal: "linear", the paper's, unless said otherwise.
      start_steps: DDIM steps of the first teacher.
      end_steps: of the last student.
      ratio: teacher steps that one student step replaces.
      long_rounds: how many of the last rounds take `long_num_updates` updates.
      long_num_updates: see there.
    """

    anneal: state.Anneal = "linear"
    start_steps: int = 1024
    end_steps: int = 1
    ratio: int = 2
    long_rounds: int = 0
    long_num_updates: int = 0


@dataclasses.dataclass
class Evaluation:
    """What is measured and drawn after each phase.

    Attributes:
      num_samples: images behind each distance.
      batch_size: images drawn at a time, over all devices.
      gamma: of the ancestral sampler.
      seed: of the samples, apart from the training's.
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
      seed: of initialisation, data order and noise.
      schedule: the noise schedule of every phase.
      teacher: path of a trained teacher (a directory of `models/`, or a released
        flax msgpack file); empty trains one in phase 0.
      log_every: updates between rows of metrics.jsonl.
      save_every: updates between checkpoints; a multiple of log_every.
      keep_checkpoints: how many of the latest are kept.
      cpu_devices: how many devices the CPU is split into, where there is nothing
        else; 0 is one a core.
    """

    seed: int = 0
    schedule: schedules.ScheduleName = "cosine"
    teacher: str = ""
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    base: Training = dataclasses.field(default_factory=Training)
    distill: Distillation = dataclasses.field(default_factory=Distillation)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    log_every: int = 100
    save_every: int = 1000
    keep_checkpoints: int = 2
    cpu_devices: int = 0


def check(config: Config) -> None:
    """Refuses what cannot run.

    Raises:
      ConfigError: naming the first bad field, its value and what is accepted.
    """
    _check_types(config, "config")
    _check_data(config.data)
    _check_model(config.model, config.data.image_shape)
    _check_training(config.base, "config.base")
    _check_training(config.distill, "config.distill")
    _check_rounds(config.distill)
    evaluation = config.evaluation
    _require(
        0 <= evaluation.gamma <= 1,
        "config.evaluation.gamma",
        evaluation.gamma,
        "0 to 1",
    )
    _at_least(evaluation, "config.evaluation", 1, "batch_size", "grid_images")
    _at_least(evaluation, "config.evaluation", 2, "num_samples")
    rule = f"at most num_samples={evaluation.num_samples}"
    ok = evaluation.grid_images <= evaluation.num_samples
    _require(ok, "config.evaluation.grid_images", evaluation.grid_images, rule)
    for field, seed in (("seed", config.seed), ("evaluation.seed", evaluation.seed)):
        _require(0 <= seed < 2**32, f"config.{field}", seed, "at least 0, below 2**32")
    _at_least(config, "config", 1, "log_every", "save_every", "keep_checkpoints")
    _at_least(config, "config", 0, "cpu_devices")
    _require(
        config.save_every % config.log_every == 0,
        "config.save_every",
        config.save_every,
        f"a multiple of config.log_every={config.log_every}",
    )


def check_devices(config: Config, num_devices: int) -> None:
    """Refuses batches that the devices cannot share evenly.

    Raises:
      ConfigError: naming the batch size.
    """
    for name in ("base", "distill", "evaluation"):
        size = getattr(config, name).batch_size
        rule = f"a multiple of the {num_devices} devices"
        _require(size % num_devices == 0, f"config.{name}.batch_size", size, rule)


def differences(old: Config, new: Config) -> list[str]:
    """Returns "field: old → new" of each field that changes what a run computes."""
    before, after = (_flatten(dataclasses.asdict(c)) for c in (old, new))
    return [
        f"{field}: {before[field]!r} → {value!r}"
        for field, value in after.items()
        if value != before[field] and field not in _HARMLESS
    ]


def to_json(config: Config) -> str:
    """Returns the configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(path: Path) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ConfigError: if the file is missing, is not JSON, or has a field of another name.
    """
    try:
        values = json.loads(path.read_text())
        return _from_dict(Config, values)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; is this the workdir of a run?"
        ) from None
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        TypeError,
        AttributeError,
    ) as error:
        raise ConfigError(f"{path}: not a configuration ({error})") from None


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints.get(name)):
            value = _from_dict(hints[name], value)
        elif get_origin(hints.get(name)) is tuple:
            value = tuple(value)
        fields[name] = value
    return cls(**fields)


def _flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{path}{name}.") if nested else {path + name: value}
    return flat


def _require(ok: bool, field: str, found: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{field}={found!r}: must be {rule}")


def _at_least(node: Any, path: str, bound: int, *fields: str) -> None:
    for field in fields:
        value = getattr(node, field)
        _require(value >= bound, f"{path}.{field}", value, f"at least {bound}")


def _check_types(node: Any, path: str) -> None:
    """Every field has its annotated type; a Literal one of its words."""
    hints: dict[str, Any] = get_type_hints(type(node))
    for name, hint in hints.items():
        value, field = getattr(node, name), f"{path}.{name}"
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            _require(isinstance(value, hint), field, value, f"a {hint.__name__}")
            _check_types(value, field)
        elif get_origin(hint) is Literal:
            _require(
                value in get_args(hint),
                field,
                value,
                "one of " + ", ".join(get_args(hint)),
            )
        elif get_origin(hint) is tuple:
            ok = isinstance(value, tuple) and all(type(v) is int for v in value)
            _require(ok, field, value, "a tuple of integers")
        else:
            ok = type(value) is hint or (hint is float and type(value) is int)
            _require(ok, field, value, f"of type {hint.__name__}")


def _check_data(data: Data) -> None:
    shape = data.image_shape
    ok = len(shape) == 3 and min(shape) >= 1 and shape[2] in (1, 3)
    _require(ok, "config.data.image_shape", shape, "(height, width, 1 or 3)")
    if data.name == "tfds":
        _require(bool(data.tfds_name), "config.data.tfds_name", "", "a TFDS data set")


def _check_model(model: Model, image_shape: tuple[int, int, int]) -> None:
    path = "config.model"
    _at_least(model, path, 1, "emb_ch", "num_res_blocks", "num_heads", "patch_size")
    _at_least(model, path, 0, "head_dim", "num_classes")
    _require(model.ch >= 4 and model.ch % 2 == 0, f"{path}.ch", model.ch, "even, >= 4")
    ok = len(model.ch_mult) >= 1 and min(model.ch_mult) >= 1
    _require(ok, f"{path}.ch_mult", model.ch_mult, "at least one factor, each >= 1")
    _check_levels(model, image_shape)
    field = "head_dim" if model.head_dim else "num_heads"
    value = getattr(model, field)
    ok = all(model.ch * mult % value == 0 for mult in model.ch_mult)
    rule = f"a divisor of each level's channels, {model.ch} times {model.ch_mult}"
    _require(ok, f"{path}.{field}", value, rule)


def _check_levels(model: Model, image_shape: tuple[int, int, int]) -> None:
    """The image halves evenly from level to level, and attention is at one of them."""
    halvings = len(model.ch_mult) - 1
    factor = model.patch_size * 2**halvings
    ok = all(side % factor == 0 for side in image_shape[:2])
    rule = f"divisible by {factor} (patch_size times 2 a level of ch_mult)"
    _require(ok, "config.data.image_shape", image_shape, rule)
    top = image_shape[0] // model.patch_size
    heights = [top // 2**level for level in range(halvings + 1)]
    ok = set(model.attn_resolutions) <= set(heights)
    rule = f"among the heights of the feature maps, {heights}"
    _require(ok, "config.model.attn_resolutions", model.attn_resolutions, rule)


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


def _check_rounds(distill: Distillation) -> None:
    path = "config.distill"
    _at_least(distill, path, 1, "end_steps", "start_steps")
    _at_least(distill, path, 2, "ratio")
    _at_least(distill, path, 0, "long_rounds")
    if distill.long_rounds:
        _at_least(distill, path, 1, "long_num_updates")
    try:
        rounds = progressive.num_rounds(
            distill.start_steps, distill.end_steps, distill.ratio
        )
    except ValueError as error:
        raise ConfigError(f"{path}.{error}") from None
    rule = f"at most the {rounds} rounds"
    _require(
        distill.long_rounds <= rounds, f"{path}.long_rounds", distill.long_rounds, rule
    )
