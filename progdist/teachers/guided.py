"""Files of guided-diffusion, improved-diffusion and consistency_models.

A .pt file holds the parameters alone. The network follows from shapes and names,
except for the heads of its attention and the order of q, k and v. They show neither the
noise levels nor the preconditioning nor the size of the images.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from progdist.checkpoint import CheckpointError
from progdist.checkpoint.weights import read_torch
from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.nets.guided_settings import AttentionOrder, GuidedUNetConfig, Precondition
from progdist.nets.types import Timesteps
from progdist.sampling.cards import Card
from progdist.teachers import guided_names, published
from progdist.teachers.shapes import Shapes
from progdist.teachers.teacher import Options, Teacher

_FIRST = "input_blocks.0.0"
_OUTPUT = "output_blocks.{}.0.in_layers.2.weight"
_QKV = "middle_block.1.qkv.weight"
_KIND = "guided-diffusion, improved-diffusion or consistency_models"
_OF_TIMESTEPS = "betas", "num_timesteps", "rescale_timesteps"
_NUM_STEPS = {"none": 250, "edm": 40, "consistency": 1}  # of the published samples


def read(path: Path, options: Options) -> Teacher:
    """Reads a .pt or .pth file of parameters.

    Args:
      path: the file.
      options: facts that its parameters do not show. Those of published files are known
        by their names, and given ones override them.

    Raises:
      WeightsError: if it is damaged, or no file of parameters.
      CheckpointError: if it holds another network.
      UsageError: if a fact is missing, or a given one does not apply.
    """
    arrays = read_torch(path)
    shapes, given = Shapes(path, _KIND, arrays), options.given()
    if "num_heads" in given or "head_dim" in given:
        given = {"num_heads": None, "head_dim": None} | given
    facts = published.options_of(path.name)._replace(**given)
    net = _net_of(shapes, facts)
    _check_options(shapes, options, net)
    order = _attention_order(shapes, facts, net)
    in_channels = shapes.of(f"{_FIRST}.weight", 4)[1]
    by_head = net if order == "legacy" else None
    read_params = functools.partial(
        guided_names.params_of, path, arrays, by_head, in_channels
    )
    return Teacher(_card(path, net, facts, in_channels), read_params)


def _check_options(shapes: Shapes, options: Options, net: GuidedUNetConfig) -> None:
    """Refuses options that others, or the file itself, make void."""
    names, kind = set(options._fields), net.precondition
    if options.num_heads and options.head_dim:
        raise UsageError("--num_heads: does not apply beside --head_dim; pass one")
    if _is_of_consistency_models(shapes):
        why = f"{shapes.path} is of consistency_models, whose order is always new"
        options.check_applicable(names - {"attention_order"}, why)
    if kind != "none":
        why = f"a network with --precondition={kind} sees no timesteps"
        options.check_applicable(names - set(_OF_TIMESTEPS), why)


def _net_of(shapes: Shapes, facts: Options) -> GuidedUNetConfig:
    """Returns the settings that shapes, names and facts determine."""
    _check_channels(shapes)
    ups, by_blocks = _ups(shapes)
    num_blocks = (ups[0] if ups else shapes.count(_OUTPUT) - 1) or 1
    firsts = [1 + level * (num_blocks + 1) for level in range(len(ups) + 1)]
    channels = tuple(
        shapes.of(f"input_blocks.{n}.0.in_layers.2.weight", 4)[0] for n in firsts
    )
    width = shapes.of("input_blocks.1.0.emb_layers.1.weight", 2)[0]
    is_labelled = "label_emb.weight" in shapes
    precondition = _precondition(shapes, facts)
    return GuidedUNetConfig(
        ch=shapes.of("time_embed.0.weight", 2)[1],
        channels=channels,
        num_res_blocks=num_blocks,
        attn_factors=tuple(
            2**level
            for level, n in enumerate(firsts)
            if f"input_blocks.{n}.1.qkv.weight" in shapes
        ),
        **_heads(shapes, facts),
        num_classes=shapes.of("label_emb.weight", 2)[0] if is_labelled else 0,
        resblock_updown=by_blocks,
        scale_shift_norm=width == 2 * channels[0],
        precondition=precondition,
        **_noise_levels(shapes, facts, precondition),
    )


def _check_channels(shapes: Shapes) -> None:
    """Refuses networks that take more than noisy images, and classifiers."""
    taken = shapes.of(f"{_FIRST}.weight", 4)[1]
    made = shapes.of("out.2.weight", 4)[0]
    if taken not in (1, 3) or made not in (taken, 2 * taken):
        raise CheckpointError(
            f"{shapes.path}: takes {taken} channels and makes {made}, as an upsampler "
            "or a classifier may; accepted are 1 or 3, and as many or twice as many"
        )


def _ups(shapes: Shapes) -> tuple[list[int], bool]:
    """Returns the output blocks that double the size, and whether blocks do so."""
    suffixes = {".conv.weight": False, ".in_layers.2.weight": True}
    for suffix, by_blocks in suffixes.items():
        ups = [
            n
            for n in range(shapes.count(_OUTPUT))
            if any(f"output_blocks.{n}.{j}{suffix}" in shapes for j in (1, 2))
        ]
        if ups:
            return ups, by_blocks
    return [], True


def _heads(shapes: Shapes, facts: Options) -> dict[str, Any]:
    """Returns num_heads and head_dim of the attention."""
    if facts.head_dim:
        return {"num_heads": 1, "head_dim": facts.head_dim}
    if facts.num_heads:
        return {"num_heads": facts.num_heads, "head_dim": 0}
    raise _missing(shapes.path, "--num_heads or --head_dim", "heads of the attention")


def _attention_order(
    shapes: Shapes, facts: Options, net: GuidedUNetConfig
) -> AttentionOrder:
    """Returns the order of q, k and v, which differs between more heads than one."""
    if facts.attention_order:
        return facts.attention_order
    if _is_of_consistency_models(shapes) or (net.num_heads, net.head_dim) == (1, 0):
        return "new"
    raise _missing(
        *(shapes.path, "--attention_order"),
        'order of q, k and v ("new" if it was trained with --use_new_attention_order)',
    )


def _precondition(shapes: Shapes, facts: Options) -> Precondition:
    if facts.precondition:
        return facts.precondition
    if not _is_of_consistency_models(shapes):
        return "none"
    raise _missing(shapes.path, "--precondition", "preconditioning")


def _is_of_consistency_models(shapes: Shapes) -> bool:
    """Whether the attention projects by 2D convolutions; by 1D ones elsewhere."""
    return len(shapes.shapes.get(_QKV, ())) == 4


def _noise_levels(
    shapes: Shapes, facts: Options, precondition: Precondition
) -> dict[str, Any]:
    """Returns the settings of a network that sees timesteps.

    The linear betas are those of 1000 levels, scaled to their number.
    """
    if precondition != "none":
        return {}
    if facts.betas is None:
        raise _missing(shapes.path, "--betas", "noise levels")
    count = facts.num_timesteps or 1000
    if count != 1000 and facts.rescale_timesteps is None:
        flag = "--rescale_timesteps or --norescale_timesteps"
        raise _missing(shapes.path, flag, "range of the timesteps")
    scale = 1000 / count
    timesteps = Timesteps(
        betas=facts.betas,
        num_timesteps=count,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
    )
    rescale = bool(facts.rescale_timesteps)
    return {"timesteps": timesteps, "rescale_timesteps": rescale}


def _missing(path: Path, flag: str, fact: str) -> UsageError:
    return UsageError(f"{flag} is missing: {path} does not show the {fact}")


def _card(path: Path, net: GuidedUNetConfig, facts: Options, num_channels: int) -> Card:
    """Returns the card of the model; refuses facts that do not fit it."""
    if facts.image_size is None:
        raise _missing(path, "--image_size", "height and width of the images")
    shape = (facts.image_size, facts.image_size, num_channels)
    try:
        net.check(shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    kind = net.precondition
    return {
        "phase": int(kind == "consistency"),
        "num_steps": _NUM_STEPS[kind],
        "net": dataclasses.asdict(net),
        "output": _output(kind, facts),
        "schedule": "timesteps" if kind == "none" else "karras",
        "image_shape": list(shape),
        "num_classes": net.num_classes,
        "class_names": [],
    }


def _output(precondition: Precondition, facts: Options) -> Parameterization:
    """Returns the output's meaning: x with preconditioning, else by default eps."""
    accepted = ("eps", "x", "v") if precondition == "none" else ("x",)
    output = facts.output or accepted[0]
    if output not in accepted:
        raise UsageError(
            f"--output={output}: must be {' or '.join(accepted)} with "
            f"--precondition={precondition}"
        )
    return output
