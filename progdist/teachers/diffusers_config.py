"""The JSON files of diffusers: settings of a network, and of its noise levels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from progdist.checkpoint import CheckpointError
from progdist.diffusion.settings import Parameterization
from progdist.errors import escaped, not_one_of
from progdist.nets.diffusers_settings import (
    ClassEmbedding,
    DiffusersUNetConfig,
    DownBlockType,
    Resampler,
    TimeScaleShift,
    UpBlockType,
)
from progdist.nets.types import (
    MOST_PIXELS,
    BetaRule,
    ImageShape,
    Timesteps,
)

SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
)
"""Schedulers whose networks take timesteps with betas, and images of unit variance."""

_OUTPUTS: dict[str, Parameterization] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x",
}
# Defaults of UNet2DModel, which its config.json may omit.
_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "sample_size": None,
    "dropout": 0.0,
    "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "time_embedding_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "resnet_time_scale_shift": "default",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "downsample_padding": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "mid_block_scale_factor": 1,
    "add_attention": True,
    "center_input_sample": False,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# Fields that have one accepted value, or two names of it.
_FIXED: dict[str, tuple[str, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "act_fn": ("silu", "swish"),
}

_SWITCHES = "flip_sin_to_cos", "add_attention", "center_input_sample"
_COUNTS = (
    "layers_per_block",
    "time_embedding_dim",
    "freq_shift",
    "downsample_padding",
    "attention_head_dim",
    "norm_num_groups",
    "attn_norm_num_groups",
)
# Fields whose null is no default: one head, and no norm of their own.
_NULLABLE = (
    "attention_head_dim",
    "attn_norm_num_groups",
    "num_class_embeds",
    "time_embedding_dim",
)
_MOST = 2**24  # of the absolute value of any number


class Found(NamedTuple):
    """A JSON object, and its file for messages."""

    path: Path
    values: dict[str, Any]


class InOut(NamedTuple):
    """Shapes of a network's inputs and outputs.

    Attributes:
      image_shape: (height, width, channels).
      out_channels: those of the file; twice those of the images with learned variances.
    """

    image_shape: ImageShape
    out_channels: int


def check_class(found: Found, accepted: Sequence[str]) -> None:
    """Refuses an object of another class of diffusers.

    Raises:
      CheckpointError: naming the class.
    """
    name = found.values.get("_class_name")
    if name not in accepted:
        reason = not_one_of(f"{name!s:.60}", accepted)
        raise CheckpointError(f"{found.path}: _class_name: {reason}")


def output_of(scheduler: Found) -> Parameterization:
    """Returns the meaning of the network's output.

    Raises:
      CheckpointError: if the scheduler names another.
    """
    name = scheduler.values.get("prediction_type", "epsilon")
    return _OUTPUTS[_word(scheduler, "prediction_type", name, tuple(_OUTPUTS))]


def timesteps_of(
    scheduler: Found, betas: BetaRule | None, output: Parameterization
) -> Timesteps:
    """Returns the noise levels.

    Args:
      scheduler: its settings; may be empty.
      betas: rule of the betas, if not the scheduler's.
      output: meaning of the network's output.

    Raises:
      CheckpointError: if they are malformed, or of a rule that is not supported.
    """
    values = scheduler.values
    trained = values.get("trained_betas")
    rule = values.get("beta_schedule", "linear")
    if betas is None and trained is None:
        rule = _word(scheduler, "beta_schedule", rule, get_args(BetaRule))
    zero = _typed(scheduler, "rescale_betas_zero_snr", bool, False)
    if zero and output == "eps":
        raise CheckpointError(
            f"{scheduler.path}: rescale_betas_zero_snr needs prediction_type "
            "v_prediction or sample, since pure noise says nothing of eps"
        )
    is_trained = betas is None and trained is not None
    given = _numbers(scheduler, "trained_betas", trained) if is_trained else ()
    count = _typed(scheduler, "num_train_timesteps", int, 1000)
    levels = Timesteps(
        betas="trained" if is_trained else betas or rule,
        num_timesteps=len(given) if is_trained else count,
        beta_start=float(_typed(scheduler, "beta_start", float, 1e-4)),
        beta_end=float(_typed(scheduler, "beta_end", float, 0.02)),
        trained_betas=given,
        zero_terminal_snr=zero,
    )
    try:
        levels.check()
    except ValueError as error:
        raise CheckpointError(f"{scheduler.path}: {error}") from None
    return levels


def clip_of(scheduler: Found) -> str:
    """Returns how the scheduler clips x̂; see `progdist.teachers.diffusers`.

    Raises:
      CheckpointError: if its fields are malformed.
    """
    if _typed(scheduler, "thresholding", bool, False):
        return "thresholding"
    # The default of those two families; others never clip.
    name = str(scheduler.values.get("_class_name"))
    if not _typed(scheduler, "clip_sample", bool, name.startswith(("DDPM", "DDIM"))):
        return "none"
    bound = _typed(scheduler, "clip_sample_range", float, 1.0)
    return "keep" if bound == 1 else f"keep in ±{bound:g}"


def net_of(config: Found, levels: Timesteps) -> tuple[DiffusersUNetConfig, InOut]:
    """Returns the settings of the network, and the shapes of its arrays.

    Raises:
      CheckpointError: naming the first field that is unknown, malformed or of a value
        that is not supported.
    """
    _check_known(config)
    image_shape = _image_shape(config)
    out, channels = _typed(config, "out_channels", int, 3), image_shape[2]
    if out not in (channels, 2 * channels):
        raise CheckpointError(
            f"{config.path}: out_channels is {out}, accepted are in_channels="
            f"{channels} and twice as many"
        )

    def of(name: str, kind: type) -> Any:
        return _typed(config, name, kind, _DEFAULTS[name])

    def word(name: str, accepted: Any) -> Any:
        value = config.values.get(name, _DEFAULTS[name])
        return _word(config, name, value, get_args(accepted))

    def words(name: str, accepted: Any) -> tuple[Any, ...]:
        given = _list(config, name, config.values.get(name, _DEFAULTS[name]))
        plain = [v.removeprefix("UNetRes") if type(v) is str else v for v in given]
        return tuple(_word(config, name, v, get_args(accepted)) for v in plain)

    rest: dict[str, Any] = {name: of(name, bool) for name in _SWITCHES}
    rest |= {name: of(name, int) or 0 for name in _COUNTS}
    net = DiffusersUNetConfig(
        block_out_channels=_whole_numbers(config, "block_out_channels"),
        down_block_types=words("down_block_types", DownBlockType),
        up_block_types=words("up_block_types", UpBlockType),
        resnet_time_scale_shift=word("resnet_time_scale_shift", TimeScaleShift),
        downsample_type=word("downsample_type", Resampler),
        upsample_type=word("upsample_type", Resampler),
        class_embed_type=_class_embedding(config),
        num_classes=of("num_class_embeds", int) or 0,
        norm_eps=float(of("norm_eps", float)),
        mid_block_scale_factor=float(of("mid_block_scale_factor", float)),
        timesteps=levels,
        **rest,
    )
    return net, InOut(image_shape, out)


def _check_known(config: Found) -> None:
    """Refuses unknown fields, and values that are not supported."""
    for name, value in config.values.items():
        if name in _FIXED:
            _word(config, name, value, _FIXED[name])
        elif name not in _DEFAULTS and not name.startswith("_"):
            raise CheckpointError(
                f"{config.path}: {escaped(name)} is not a known field"
            )


def _class_embedding(config: Found) -> ClassEmbedding:
    kind = config.values.get("class_embed_type")
    if kind == "identity":
        raise CheckpointError(
            f"{config.path}: class_embed_type: 'identity' is not one of None, timestep"
        )
    return _word(config, "class_embed_type", kind or "none", get_args(ClassEmbedding))


def _image_shape(config: Found) -> ImageShape:
    """Returns the shape of an image, from sample_size: a side, or height and width."""
    size: Any = config.values.get("sample_size")
    sides = size if isinstance(size, list) else [size, size]
    ok = len(sides) == 2 and all(
        type(side) is int and 0 < side <= MOST_PIXELS for side in sides
    )
    if not ok:
        raise CheckpointError(
            f"{config.path}: sample_size is {size!r:.60}, accepted is a side or "
            f"[height, width], at most {MOST_PIXELS:,}"
        )
    return sides[0], sides[1], _typed(config, "in_channels", int, 3)


def _typed(found: Found, name: str, kind: type, default: Any) -> Any:
    """Returns a field of a type; an integer is a float too, and null the default."""
    value = found.values.get(name, default)
    if value is None:
        return None if name in _NULLABLE else default
    kinds = {float: (int, float), bool: (bool,), int: (int,)}[kind]
    if type(value) not in kinds or not abs(value) <= _MOST:
        named = {float: "a number", bool: "true or false", int: "a whole number"}
        limit = f", at most {_MOST:,}" if type(value) in kinds else ""
        raise CheckpointError(
            f"{found.path}: {name} is {value!r:.60}, accepted is {named[kind]}{limit}"
        )
    return value


def _word(found: Found, name: str, value: Any, accepted: Sequence[str]) -> Any:
    if value not in accepted:
        reason = not_one_of(f"{value!s:.60}", accepted)
        raise CheckpointError(f"{found.path}: {name}: {reason}")
    return value


def _list(found: Found, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{found.path}: {name} is {value!r:.60}, must be a list")
    return value


def _whole_numbers(config: Found, name: str) -> tuple[int, ...]:
    values = _list(config, name, config.values.get(name, _DEFAULTS[name]))
    if not all(type(value) is int for value in values):
        raise CheckpointError(f"{config.path}: {name}: must be whole numbers")
    return tuple(values)


def _numbers(found: Found, name: str, value: Any) -> tuple[float, ...]:
    values = _list(found, name, value)
    if not all(type(v) in (int, float) and abs(v) <= _MOST for v in values):
        raise CheckpointError(f"{found.path}: {name}: must be numbers")
    return tuple(map(float, values))
