"""Small models in the layout of diffusers, with parameters by rule.

`CASES` cover every supported option of `UNet2DModel`, and `SCHEDULERS` the rules of the
betas. `write_pipeline` needs neither PyTorch nor diffusers.
"""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from progdist import teachers
from progdist.checkpoint import torch_names
from progdist.model import param_shapes
from progdist.sampling import cards

Shapes = dict[str, tuple[int, ...]]

SIZE, NUM_STEPS = 8, 10
# Options of the compiler, for programs that run once.
FAST = {"xla_backend_optimization_level": 0}
_PLAIN: dict[str, Any] = {
    "sample_size": SIZE,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_RESNETS = ["ResnetDownsampleBlock2D"] * 2, ["ResnetUpsampleBlock2D"] * 2
_ATTENTION = ["AttnDownBlock2D"] * 2, ["AttnUpBlock2D"] * 2
CASES: dict[str, dict[str, Any]] = {
    # As google/ddpm-cifar10-32.
    "ddpm": {
        **{**_PLAIN, "layers_per_block": 2, "attention_head_dim": None},
        **{"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
        **{"norm_eps": 1e-6, "center_input_sample": False, "act_fn": "silu"},
        **{"mid_block_scale_factor": 1, "time_embedding_type": "positional"},
    },
    "classes": {
        **{**_PLAIN, "num_class_embeds": 5, "resnet_time_scale_shift": "scale_shift"},
        **{"down_block_types": _RESNETS[0], "up_block_types": _RESNETS[1]},
        **{"attention_head_dim": 4},
    },
    "resampling": {
        **{**_PLAIN, "downsample_type": "resnet", "upsample_type": "resnet"},
        **{"down_block_types": _ATTENTION[0], "up_block_types": _ATTENTION[1]},
        **{"mid_block_scale_factor": 1.5, "attn_norm_num_groups": 2},
        **{"center_input_sample": True, "act_fn": "swish"},
    },
    "wide": {
        **{**_PLAIN, "sample_size": [8, 16], "block_out_channels": [8, 8, 16]},
        **{"down_block_types": ["UNetResDownBlock2D"] + _ATTENTION[0]},
        **{"up_block_types": _ATTENTION[1] + ["UpBlock2D"], "add_attention": False},
        **{"in_channels": 1, "out_channels": 1, "attention_head_dim": 8},
    },
    "labels": {
        **{**_PLAIN, "class_embed_type": "timestep", "num_class_embeds": 4},
        **{"freq_shift": 1, "resnet_time_scale_shift": "scale_shift"},
        **{"attn_norm_num_groups": 4},
    },
    "variance": {
        **{**_PLAIN, "out_channels": 6, "time_embedding_dim": 24, "dropout": 0.1},
        **{"block_out_channels": [16], "down_block_types": ["DownBlock2D"]},
        **{"up_block_types": ["AttnUpBlock2D"]},
    },
}
# Of the trajectories: small, since each is compiled.
TINY: dict[str, Any] = {
    **{**_PLAIN, "block_out_channels": [8], "add_attention": False},
    **{"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
}
TIMESTEPS = [0, 1, 37, 500, 999]
_TRAINED = [1e-3 + 1e-5 * math.sin(k) for k in range(1000)]
SCHEDULERS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "scaled": {
        **{"beta_schedule": "scaled_linear", "beta_start": 0.00085},
        **{"beta_end": 0.012},
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": _TRAINED},
    "zero": {"rescale_betas_zero_snr": True},
}
# (scheduler, prediction type, clip_sample) of the trajectories.
TRAJECTORIES = [
    (name, kind, clip)
    for name in ("linear", "scaled", "cosine")
    for kind in ("epsilon", "v_prediction")
    for clip in (True, False)
] + [("zero", "v_prediction", True), ("zero", "v_prediction", False)]


def scheduler_config(name: str, kind: str = "epsilon", clip: bool = True) -> Any:
    """The settings of a DDIMScheduler."""
    return {
        "_class_name": "DDIMScheduler",
        "prediction_type": kind,
        "clip_sample": clip,
        "timestep_spacing": "trailing",
        **SCHEDULERS[name],
    }


def key(name: str, kind: str, clip: bool) -> str:
    """The name of a trajectory in the golden file."""
    return f"{name}-{kind}-{clip}"


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the rule in golden/README.md gives a parameter of PyTorch."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("bias"):
        value = 0.1 * draw
    elif len(shape) == 1:
        value = 1 + 0.1 * draw
    else:
        value = draw / math.sqrt(math.prod(shape[1:]))
    return value.astype(np.float32)


def digest(shapes: Shapes) -> int:
    """A number for the names and shapes of a network's parameters."""
    text = json.dumps(sorted((name, list(shape)) for name, shape in shapes.items()))
    return zlib.crc32(text.encode())


def inputs(config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images [5, h, w, c], one for each of `TIMESTEPS`, and their classes."""
    size = config["sample_size"]
    sides = [size, size] if isinstance(size, int) else size
    shape = (len(TIMESTEPS), *sides, config.get("in_channels", 3))
    z = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    return z, np.arange(len(TIMESTEPS)) % max(1, config.get("num_class_embeds", 1))


def write_pipeline(
    path: Path, config: dict[str, Any], scheduler: dict[str, Any], shapes: Shapes
) -> Path:
    """Writes a pipeline with parameters by rule; returns its folder."""
    index = {"unet": ["diffusers", "UNet2DModel"], "_class_name": "DDIMPipeline"}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    write_json(path / "model_index.json", index)
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    arrays = {name: parameter(name, shape) for name, shape in shapes.items()}
    write_model(path / "unet", config, arrays)
    return path


def write_model(
    path: Path, config: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Writes a model: its settings and parameters."""
    write_json(path / "config.json", {"_class_name": "UNet2DModel", **config})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path / "diffusion_pytorch_model.safetensors")


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def torch_shapes(model):
    """Names and shapes of a model's parameters in PyTorch."""
    leaves = flatten_dict(param_shapes(model), sep="/")
    arrays = [(path, np.broadcast_to(0.0, leaf.shape)) for path, leaf in leaves.items()]
    named = (torch_names.to_torch(path, array) for path, array in arrays)
    return {name: array.shape for name, array in named}


def write_random(path, config, scheduler, doubled=False):
    """Writes a pipeline whose names and shapes are those of our network."""
    write_pipeline(path, config, scheduler, {})
    shapes = torch_shapes(cards.model_of(teachers.read_teacher(path).card, "a test"))
    if doubled:
        last = {n: s for n, s in shapes.items() if n.startswith("conv_out")}
        shapes |= {n: (2 * s[0], *s[1:]) for n, s in last.items()}
    return write_pipeline(path, config, scheduler, shapes), shapes
