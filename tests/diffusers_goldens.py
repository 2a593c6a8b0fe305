"""Golden outputs of diffusers, for tests/test_teachers_diffusers.py.

  python -m tests.diffusers_goldens tests/golden

needs torch and diffusers, and writes diffusers.npz: outputs of every case of
`diffusers_models.CASES`, states of DDIM, and alpha² of every scheduler.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests import diffusers_models as models


def make_net(config: dict[str, Any]) -> Any:
    """The network of diffusers with parameters by rule."""
    import torch
    from diffusers import UNet2DModel

    net = UNet2DModel(**config).eval()
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            values = models.parameter(name, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(values))
    return net


def shapes_of(net: Any) -> models.Shapes:
    """The shapes of the network's parameters by name."""
    return {name: tuple(array.shape) for name, array in net.state_dict().items()}


def outputs(net: Any, config: dict[str, Any], timesteps: Any) -> np.ndarray:
    """The network's outputs for `diffusers_models.inputs`, channels last."""
    import torch

    z, label = models.inputs(config)
    classes = torch.from_numpy(label) if "num_class_embeds" in config else None
    noisy = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        out = net(noisy, torch.tensor(timesteps), class_labels=classes).sample
    return out.numpy().transpose(0, 2, 3, 1)[..., : z.shape[-1]].copy()


def make_scheduler(settings: dict[str, Any]) -> Any:
    """The scheduler of diffusers."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(settings)


def trajectory(net: Any, settings: dict[str, Any], z: np.ndarray) -> np.ndarray:
    """All states of DDIM, channels last, the noise first."""
    import torch

    scheduler = make_scheduler(settings)
    scheduler.set_timesteps(models.NUM_STEPS)
    state = torch.from_numpy(z.transpose(0, 3, 1, 2).copy())
    states = [state]
    with torch.no_grad():
        for t in scheduler.timesteps:
            state = scheduler.step(net(state, t).sample, t, state, eta=0.0).prev_sample
            states.append(state)
    return torch.stack(states).numpy().transpose(0, 1, 3, 4, 2).copy()


def goldens() -> dict[str, Any]:
    """Everything that the file holds."""
    found: dict[str, Any] = {}
    for name, config in models.CASES.items():
        net = make_net(config)
        found[f"{name}/output"] = outputs(net, config, models.TIMESTEPS)
        found[f"{name}/digest"] = models.digest(shapes_of(net))
    config = models.TINY
    net, z = make_net(config), models.inputs(config)[0][:2]
    for case in models.TRAJECTORIES:
        states = trajectory(net, models.scheduler_config(*case), z)
        # In the middle, and in the end.
        found[f"trajectory/{models.key(*case)}"] = states[[5, 10]]
    for name in models.SCHEDULERS:
        scheduler = make_scheduler(models.scheduler_config(name, "sample"))
        found[f"alpha2/{name}"] = scheduler.alphas_cumprod.numpy()
    return found


if __name__ == "__main__":
    np.savez_compressed(Path(sys.argv[1]) / "diffusers.npz", **goldens())
