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

draws from the same noise what progdist draws. Source: Hugging Face diffusers,
`DDIMScheduler` and `UNet2DModel` of version 0.35.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from progdist.diffusion.schedules import describe
from progdist.errors import UsageError
from progdist.export import formats, hub, model_card
from progdist.export.model_card import Usage
from progdist.nets.settings import Timesteps
from progdist.sampling.cards import Card
from progdist.sampling.pretrained import Pretrained
from progdist.workdir.files import write_bytes

_VERSION = "0.35.0"
_TYPES = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}


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
    text = (
        f"The model is defined at {card['num_steps']} steps, and by both options: "
        "x̂ is clipped to [-1, 1] and eps recomputed from it, as it was trained."
    )
    end = "The folder needs nothing but diffusers; `progdist convert` reads it, too."
    return Usage("diffusers", "ddim", [*lines, "", text], end)


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
