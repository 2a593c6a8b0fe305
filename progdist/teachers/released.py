"""Checkpoints released with the paper: flax train states in msgpack.

The network is that of `nets.unet`. Shapes determine it, but not the size of the images.
Its GroupNorms have 32 groups. Of the parameters, the moving average is taken.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from progdist.checkpoint import CheckpointError
from progdist.checkpoint.files import read_flax
from progdist.diffusion.prediction import num_outputs
from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.nets.settings import UNetConfig
from progdist.sampling.cards import Card
from progdist.teachers.shapes import Shapes
from progdist.teachers.teacher import Options, Teacher


class _Family(NamedTuple):
    """Published facts that shapes do not show."""

    image_size: int
    output: Parameterization
    start_steps: int


# By the channels of each level over those of the first; see ../../configs.
_FAMILIES = {
    (1, 1, 1): _Family(32, "x", 8192),  # CIFAR-10
    (1, 2, 3, 4): _Family(64, "both", 1024),  # ImageNet
    (1, 2, 4, 6, 8): _Family(128, "both", 1024),  # LSUN bedrooms and churches
}
_START_STEPS = 1024  # of a network of no family
_GROUPS = 32


def read(path: Path, options: Options) -> Teacher:
    """Reads a released checkpoint: an original, or a student of N steps.

    Args:
      path: the file.
      options: facts that shapes do not show, where they differ from the published ones
        or the network is of no published form: `image_size`, and `output` of a network
        with as many channels as the images.

    Raises:
      CheckpointError: if it is damaged, or holds another network.
      UsageError: if a fact is missing, or does not fit the network.
    """
    why = f"{path} is a flax file, whose parameters show the rest"
    options.check_applicable(("output", "image_size"), why)
    leaves, num_steps = read_flax(path)
    shapes = Shapes(path, "the paper", leaves)
    return Teacher(_card(shapes, num_steps, options), path=path)


def _card(shapes: Shapes, num_steps: int, options: Options) -> Card:
    """Returns the card of the model; refuses facts that do not fit it."""
    family, num_channels = _family(shapes), shapes.of("conv_in/kernel", 4)[2]
    size = options.image_size or (family.image_size if family else None)
    if not size:
        raise UsageError(
            f"--image_size is missing: {shapes.path} does not show the height of the "
            "images, and is of no published form"
        )
    shape, net = (size, size, num_channels), _net_of(shapes, size)
    try:
        net.check(shape)
    except ValueError as error:
        raise CheckpointError(f"{shapes.path}: {error}") from None
    start_steps = family.start_steps if family else _START_STEPS
    return {
        "phase": int(num_steps > 0),
        "num_steps": num_steps or start_steps,
        "net": dataclasses.asdict(net),
        "output": _output(shapes, num_channels, family, options),
        "schedule": "cosine",
        "image_shape": list(shape),
        "num_classes": net.num_classes,
        "class_names": [],
    }


def _net_of(shapes: Shapes, size: int) -> UNetConfig:
    """Returns the settings that shapes and names determine."""
    attn_levels = [
        level
        for level in range(len(_channels(shapes)))
        if f"down_{level}.attn_0/q/kernel" in shapes
    ]
    is_labelled = "class_emb/kernel" in shapes
    return UNetConfig(
        ch=shapes.of("conv_in/kernel", 4)[3],
        emb_ch=shapes.of("dense0/kernel", 2)[1],
        ch_mult=_multiples(shapes),
        num_res_blocks=shapes.count("down_0.block_{}/conv1/kernel"),
        attn_resolutions=tuple(sorted(size // 2**level for level in attn_levels)),
        **_heads(shapes, [f"down_{level}.attn_0" for level in attn_levels]),
        num_groups=_GROUPS,
        num_classes=shapes.of("class_emb/kernel", 2)[0] if is_labelled else 0,
    )


def _channels(shapes: Shapes) -> list[int]:
    """Returns the channels of each level."""
    pattern = "down_{}.block_0/conv1/kernel"
    levels = range(shapes.count(pattern))
    return [shapes.of(pattern.format(level), 4)[3] for level in levels]


def _multiples(shapes: Shapes) -> tuple[int, ...]:
    """Returns the channels of each level over those of the first convolution."""
    first = max(1, shapes.of("conv_in/kernel", 4)[3])
    return tuple(width // first for width in _channels(shapes))


def _family(shapes: Shapes) -> _Family | None:
    return _FAMILIES.get(_multiples(shapes))


def _heads(shapes: Shapes, names: list[str]) -> dict[str, Any]:
    """Returns num_heads and head_dim, one of which all attention blocks share."""
    kernels = [shapes.of(f"{name}/q/kernel", 3) for name in ("mid.attn_1", *names)]
    nums, sizes = ({kernel[axis] for kernel in kernels} for axis in (1, 2))
    if len(nums) == 1:
        return {"num_heads": nums.pop(), "head_dim": 0}
    if len(sizes) == 1:
        return {"num_heads": 1, "head_dim": sizes.pop()}
    raise CheckpointError(
        f"{shapes.path}: its attention blocks have {sorted(nums)} heads of "
        f"{sorted(sizes)} channels; either must be the same in all"
    )


def _output(
    shapes: Shapes, num_channels: int, family: _Family | None, options: Options
) -> Parameterization:
    """Returns the meaning of the output: given, or as published."""
    made = shapes.of("conv_out/kernel", 4)[3]
    output = options.output or (family.output if family else None)
    if made == 2 * num_channels and output is None:
        output = "both"
    if output is None:
        raise UsageError(
            f"--output is missing: {shapes.path} does not show the meaning of its "
            "output, and is of no published form"
        )
    if made != num_channels * num_outputs(output):
        raise UsageError(
            f"--output={output}: {shapes.path} makes {made} channels of {num_channels}"
        )
    return output
