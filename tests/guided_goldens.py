"""Outputs of the networks of guided-diffusion and its relatives.

    python -m tests.guided_goldens GUIDED IMPROVED CONSISTENCY tests/golden

The first three are checkouts of openai/guided-diffusion, openai/improved-diffusion and
openai/consistency_models. Needs torch and einops. What these import beside them is not
used here, and replaced: piq, torchvision, blobfile and mpi4py by nothing; flash_attn,
which needs a GPU, by PyTorch's exact attention.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from tests.guided_parameters import parameter

SIZE, BATCH, CLASSES = 8, 3, 5
UNET: dict[str, Any] = {
    **{"image_size": SIZE, "in_channels": 3, "model_channels": 32, "out_channels": 3},
    **{"num_res_blocks": 1, "channel_mult": (1, 2), "attention_resolutions": (2,)},
}
FULL: dict[str, Any] = {"resblock_updown": True, "use_scale_shift_norm": True}
# Module, its settings, and what the file does not show.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "legacy": (
        "guided_diffusion",
        UNET | {"num_heads": 4, "attention_resolutions": (1, 2)},
        {"betas": "linear", "num_heads": 4, "attention_order": "legacy"},
    ),
    "new": (
        "guided_diffusion",
        {**UNET, **FULL, "model_channels": 64, "channel_mult": (0.5, 1)}
        | {"num_head_channels": 16}
        | {"use_new_attention_order": True, "out_channels": 6, "num_classes": CLASSES},
        {"betas": "squaredcos_cap_v2", "head_dim": 16, "attention_order": "new"},
    ),
    "rescaled": (
        "improved_diffusion",
        {k: v for k, v in UNET.items() if k != "image_size"}
        | {"num_heads": 2, "use_scale_shift_norm": True, "out_channels": 6}
        | {"num_res_blocks": 2, "attention_resolutions": ()},
        {"betas": "squaredcos_cap_v2", "num_heads": 2, "attention_order": "legacy"}
        | {"num_timesteps": 4000, "rescale_timesteps": True},
    ),
    "edm": (
        "cm",
        {**UNET, **FULL, "num_head_channels": 16, "num_classes": CLASSES},
        {"precondition": "edm", "head_dim": 16},
    ),
    "consistency": (
        "cm",
        {**UNET, **FULL, "use_scale_shift_norm": False, "num_head_channels": 32},
        {"precondition": "consistency", "head_dim": 32},
    ),
}
# Timesteps of 1000 levels; log-SNR of the others, from sigma = 0.002 to about 80.
LEVELS = (0, 411, 999)
LOGSNRS = (12.429216, 1.25, -8.75)


def attention_on_a_cpu(qkv: Any, **_: Any) -> tuple[Any, None]:
    """softmax(q k / sqrt(d)) v of [b, s, 3, h, d]."""
    import torch

    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    heads = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return heads.permute(0, 2, 1, 3), None


def replace_imports() -> None:
    for name in ("piq", "torchvision", "torchvision.transforms", "blobfile", "mpi4py"):
        sys.modules[name] = MagicMock()
    flash = ModuleType("flash_attn.flash_attention")
    flash.FlashAttention = lambda **_: attention_on_a_cpu  # type: ignore
    sys.modules |= {"flash_attn": ModuleType("flash_attn"), flash.__name__: flash}


def load(net: Any) -> dict[str, tuple[int, ...]]:
    """Gives the network its parameters; returns their shapes."""
    import torch

    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    values = {n: torch.from_numpy(parameter(n, s)) for n, s in shapes.items()}
    net.load_state_dict(values)
    net.eval()
    return shapes


def discrete(
    module: str, net: Any, z: Any, facts: dict[str, Any], **labels: Any
) -> Any:
    """The output at `LEVELS`, and alpha² there."""
    import importlib

    import torch

    diffusion = importlib.import_module(f"{module}.gaussian_diffusion")
    respace = importlib.import_module(f"{module}.respace")
    count = facts.get("num_timesteps", 1000)
    name = "linear" if facts["betas"] == "linear" else "cosine"
    alpha2 = np.cumprod(1 - diffusion.get_named_beta_schedule(name, count))
    levels = np.asarray(LEVELS) * count // 1000
    rescale = facts.get("rescale_timesteps", False)
    call = respace._WrappedModel(net, list(range(count)), rescale, count)
    output = call(z, torch.from_numpy(levels), **labels)
    return {"output": output[:, :3], "level": levels, "alpha2": alpha2[levels]}


def continuous(net: Any, z: Any, is_consistency: bool, **labels: Any) -> Any:
    """x̂ at `LOGSNRS`."""
    import torch
    from cm.karras_diffusion import KarrasDenoiser  # type: ignore

    logsnr = np.asarray(LOGSNRS, np.float32)
    sigma = torch.from_numpy(np.exp(-logsnr.astype(np.float64) / 2))
    over_alpha = torch.sqrt(1 + sigma**2)[:, None, None, None]
    denoiser = KarrasDenoiser(distillation=is_consistency, loss_norm="l2")
    x_t = (z.double() * over_alpha).float()
    call = lambda x, t, **kwargs: net(x.float(), t, **kwargs)  # noqa: E731
    _, x = denoiser.denoise(call, x_t, sigma, **labels)
    return {"output": x, "logsnr": logsnr}


def golden(name: str) -> dict[str, Any]:
    """Inputs and outputs of a case."""
    import importlib

    import torch

    module, settings, facts = CASES[name]
    net = importlib.import_module(f"{module}.unet").UNetModel(**settings)
    shapes = load(net)
    rng = np.random.default_rng(len(name))
    z = rng.standard_normal((BATCH, SIZE, SIZE, 3)).astype(np.float32)
    label = rng.integers(0, CLASSES, BATCH)
    labels = {"y": torch.from_numpy(label)} if "num_classes" in settings else {}
    images = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if module == "cm":
            kind = facts["precondition"] == "consistency"
            found = continuous(net, images, kind, **labels)
        else:
            found = discrete(module, net, images, facts, **labels)
    found["output"] = found["output"].float().numpy().transpose(0, 2, 3, 1)
    known = {"z": z, "label": label, "shapes": json.dumps(shapes)}
    return {f"{name}/{field}": value for field, value in (known | found).items()}


def main(*folders: str) -> None:
    *checkouts, out = folders
    sys.path[:0] = checkouts
    replace_imports()
    goldens = [golden(name) for name in CASES]
    np.savez_compressed(
        Path(out) / "guided.npz", **{k: v for part in goldens for k, v in part.items()}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
