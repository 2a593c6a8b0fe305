"""A model of diffusers' network as a pipeline folder of diffusers.

  model_index.json                           DDIMPipeline
  unet/config.json                           UNet2DModel
  unet/diffusion_pytorch_model.safetensors   its parameters, under their torch names
  scheduler/scheduler_config.json            DDIMScheduler
  README.md, samples.png                     model card

Step i of N goes from t = (i + 1) / N, where noise level k is at t = (k + 1) / T. With
N a divisor of T these are the levels of diffusers' "trailing" spacing, and

  DDIMPipeline.from_pretrained(folder)(
      num_inference_steps=N, eta=0.0, use_clipped_model_output=True
  )

draws the same images as progdist from the same noise. Source: Hugging Face diffusers,
`DDIMScheduler` and `UNet2DModel` of version 0.35.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from progdist.checkpoint import digests, torch_names
from progdist.config import net_from_dict
from progdist.errors import UsageError
from progdist.export import formats, hub, model_card
from progdist.export.model_card import Usage
from progdist.model import Params
from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.nets.types import ImageShape, Timesteps
from progdist.sampling.cards import Card
from progdist.sampling.pretrained import Pretrained
from progdist.workdir.files import write_bytes

_VERSION = "0.35.0"
_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_INDEX = {
    "_class_name": "DDIMPipeline",
    "_diffusers_version": _VERSION,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}
_TYPES = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
_OURS = "timesteps", "dtype", "remat"
_OPTIONAL = (
    "time_embedding_dim",
    "attention_head_dim",
    "attn_norm_num_groups",
    "class_embed_type",
    "num_class_embeds",
)


def check(pretrained: Pretrained) -> None:
    """Refuses a model that a DDIMPipeline cannot hold.

    Raises:
      UsageError: naming what it lacks.
    """
    net, card = net_from_dict(pretrained.card["net"]), pretrained.card
    flag = "--formats=diffusers"
    if not isinstance(net, DiffusersUNetConfig):
        kind = type(net).__name__.removesuffix("Config")
        raise UsageError(f"{flag}: diffusers lacks this network, progdist's {kind}")
    output, schedule, count = card["output"], card["schedule"], pretrained.num_steps
    if output not in _TYPES:
        known = ", ".join(_TYPES)
        raise UsageError(f"{flag}: the model's output is {output}, not one of {known}")
    if schedule != "timesteps":
        raise UsageError(
            f"{flag}: the model's schedule is {schedule}, not its network's timesteps"
        )
    levels = net.timesteps
    if levels.num_timesteps % count:
        raise UsageError(
            f"{flag}: num_steps={count} does not divide the {levels.num_timesteps:,} "
            "timesteps of the network"
        )
    if levels.zero_terminal_snr and output == "eps":
        raise UsageError(f"{flag}: eps fixes no image at a terminal SNR of zero")


def write(directory: Path, pretrained: Pretrained, card: Card) -> None:
    """Writes the folder of a model that `check` accepts.

    Raises:
      SaveError: if the parameters cannot be written.
      NonFiniteError: if the model draws images that are not finite.
    """
    net: Any = net_from_dict(card["net"])
    params = jax.tree.map(np.asarray, pretrained.params)
    page = model_card.model_card(card, model_card.count(params), _usage(card))
    texts = {
        "model_index.json": _json(_INDEX),
        "unet/config.json": _json(unet_config(net, pretrained.image_shape)),
        "scheduler/scheduler_config.json": _json(
            scheduler_config(net.timesteps, card["output"])
        ),
        "README.md": page,
    }
    directory.mkdir()
    for name, text in texts.items():
        write_bytes(directory / name, text.encode())
    formats.write_arrays(directory / _WEIGHTS, torch_arrays(params), {"format": "pt"})
    hub.write_samples(directory / "samples.png", pretrained)


def torch_arrays(params: Params) -> dict[str, np.ndarray]:
    """Returns the parameters under their torch names, in torch's layouts."""
    leaves = digests.leaves_of(params).items()
    return dict(torch_names.to_torch(path, leaf) for path, leaf in leaves)


def unet_config(net: DiffusersUNetConfig, image_shape: ImageShape) -> dict[str, Any]:
    """Returns the settings of diffusers' UNet2DModel, in float32.

    Args:
      net: settings of the network; diffusers has None for their 0 and "none".
      image_shape: (height, width, channels) of the images.
    """
    height, width, channels = image_shape
    names = {"num_classes": "num_class_embeds"}
    ours = {names.get(name, name): value for name, value in vars(net).items()}
    theirs = {name: value for name, value in ours.items() if name not in _OURS}
    for name in _OPTIONAL:
        theirs[name] = None if theirs[name] in (0, "none") else theirs[name]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": _VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels,
        "time_embedding_type": "positional",
        "act_fn": "silu",
        "dropout": 0.0,
        **theirs,
    }


def scheduler_config(timesteps: Timesteps, output: str) -> dict[str, Any]:
    """Returns the settings of diffusers' DDIMScheduler.

    x̂ is clipped to [-1, 1], and the last step returns it.

    Args:
      timesteps: noise levels of the network.
      output: meaning of its output: "eps", "v" or "x".
    """
    is_trained = timesteps.betas == "trained"
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": timesteps.num_timesteps,
        "beta_schedule": "linear" if is_trained else timesteps.betas,
        "beta_start": timesteps.beta_start,
        "beta_end": timesteps.beta_end,
        "trained_betas": list(timesteps.trained_betas) if is_trained else None,
        "rescale_betas_zero_snr": timesteps.zero_terminal_snr,
        "prediction_type": _TYPES[output],
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "set_alpha_to_one": True,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
    }


def _usage(card: Card) -> Usage:
    """Returns the page's code, which draws 16 images."""
    lines = _loop(card) if card["num_classes"] else _call(card)
    n = card["num_steps"]
    steps = (
        f"The model is a student of {n} steps, and of no other number."
        if card.get("phase")
        else f"Any divisor of {card['net']['timesteps']['num_timesteps']:,} may be the "
        "number of steps."
    )
    text = (
        f"{steps} With `use_clipped_model_output` eps is recomputed from x̂ clipped to "
        "[-1, 1], as progdist does."
    )
    end = "The folder needs nothing but diffusers; `progdist convert` reads it, too."
    return Usage("diffusers", "ddim", [*lines, "", text], end, "that of `scheduler/`")


def _call(card: Card) -> list[str]:
    return [
        "```python",
        "from diffusers import DDIMPipeline",
        "",
        'pipeline = DDIMPipeline.from_pretrained("PATH")  # this folder, or OWNER/NAME',
        "images = pipeline(",
        f"    16, num_inference_steps={card['num_steps']}, eta=0.0, "
        "use_clipped_model_output=True",
        ").images",
        "```",
    ]


def _loop(card: Card) -> list[str]:
    """Returns the loop for a network with classes, which the pipeline does not know."""
    height, width, channels = card["image_shape"]
    return [
        "The pipeline takes no classes; this loop does:",
        "",
        "```python",
        "import torch",
        "from diffusers import DDIMPipeline",
        "",
        'pipeline = DDIMPipeline.from_pretrained("PATH")  # this folder, or OWNER/NAME',
        "unet, scheduler = pipeline.unet, pipeline.scheduler",
        "labels = torch.zeros(16, dtype=torch.long)  # numbers of classes",
        f"z = torch.randn(16, {channels}, {height}, {width})",
        f"scheduler.set_timesteps({card['num_steps']})",
        "with torch.no_grad():",
        "    for t in scheduler.timesteps:",
        "        output = unet(z, t, class_labels=labels).sample",
        "        step = scheduler.step(output, t, z, use_clipped_model_output=True)",
        "        z = step.prev_sample",
        "images = ((z + 1) * 127.5).round().to(torch.uint8)  # [16, c, h, w]",
        "```",
    ]


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
