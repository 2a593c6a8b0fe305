"""Models of diffusers' network, and what diffusers draws from their exported folders.

  python -m tests.diffusers_pipelines tests/golden

makes golden/diffusers_pipelines.npz: images of `DDIMPipeline` from the folders that
`progdist export --formats=diffusers` writes for `CASES`, and a checksum of each folder,
so that a test without torch knows that it writes the same. Needs the extra `bench`.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from progdist import checkpoint
from progdist.checkpoint import torch_names
from progdist.export.write import write
from progdist.model import make_model, param_shapes, schedule_of
from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.nets.types import Timesteps
from progdist.sampling.pretrained import Pretrained
from tests.diffusers_models import parameter

STEPS = 1, 2, 4, 10
NUM_IMAGES, IMAGE_SHAPE = 2, (8, 8, 1)
SMALL = DiffusersUNetConfig(
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_head_dim=4,
    norm_num_groups=4,
)
BETAS = tuple((0.02 + 0.01 * k) for k in range(20))
# Output and noise levels of each model.
CASES = {
    "eps": ("eps", Timesteps(beta_end=0.004)),
    "v": ("v", Timesteps("squaredcos_cap_v2", 100)),
    "x": ("x", Timesteps("trained", 20, trained_betas=BETAS)),
    "v_zero": ("v", Timesteps("scaled_linear", zero_terminal_snr=True)),
}


def make_params(model):
    """Parameters by the rule, in the tree of the network."""
    leaves = {}
    for path, leaf in flatten_dict(param_shapes(model), sep="/").items():
        name, empty = torch_names.to_torch(path, np.empty(leaf.shape))
        _, leaves[path] = torch_names.from_torch(name, parameter(name, empty.shape))
    return unflatten_dict(leaves, sep="/")


def make(net=SMALL, output="eps", num_steps=4, schedule="timesteps", **facts):
    """A model of 4 steps with parameters by the rule, and facts in its card."""
    model = make_model(
        net,
        parameterization=output,
        schedule=schedule_of(schedule, net),
        image_shape=IMAGE_SHAPE,
    )
    card = {
        "phase": 2,
        "num_steps": num_steps,
        "net": dataclasses.asdict(net),
        "output": output,
        "schedule": schedule,
        "image_shape": list(IMAGE_SHAPE),
        "num_classes": net.num_classes,
    }
    params = jax.tree.map(jax.numpy.asarray, make_params(model))
    return Pretrained(model, params, card | facts, num_steps)


def make_case(name):
    """The model of a case."""
    output, timesteps = CASES[name]
    return make(dataclasses.replace(SMALL, timesteps=timesteps), output)


def save(path, **facts):
    """Writes a model directory; returns its path."""
    model = make(**facts)
    checkpoint.save_model(path, model.params, model.card)
    return path


def export(folder, model):
    """Exports a model; returns the pipeline's folder."""
    write(model, folder / "out", ["diffusers"])
    return folder / "out" / "diffusers"


def make_noise():
    shape = NUM_IMAGES, *IMAGE_SHAPE
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def checksum(folder):
    """Checksum of all that a pipeline reads: settings and named arrays."""
    from safetensors.numpy import load_file

    arrays = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    content = b"".join(n.encode() + x.tobytes() for n, x in sorted(arrays.items()))
    for name in ("model_index", "unet/config", "scheduler/scheduler_config"):
        values = json.loads((folder / f"{name}.json").read_text())
        content += json.dumps(values, sort_keys=True).encode()
    return zlib.crc32(content)


def load(folder):
    """The folder as a DDIMPipeline, without its progress bar."""
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, noise, num_steps):
    """What diffusers draws from the noise: float32 [b, h, w, c] in [0, 1]."""
    options = {"num_inference_steps": num_steps, "eta": 0.0, "output_type": "np"}
    with starting_from(noise):
        return pipeline(len(noise), use_clipped_model_output=True, **options).images


@contextlib.contextmanager
def starting_from(noise):
    """Makes the pipeline draw this noise, [b, h, w, c]."""
    import torch
    from diffusers.pipelines.ddim import pipeline_ddim

    before = pipeline_ddim.randn_tensor
    tensor = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    pipeline_ddim.randn_tensor = lambda *_, **__: tensor
    try:
        yield
    finally:
        pipeline_ddim.randn_tensor = before


def main(directory):
    arrays = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder = export(Path(place), make_case(name))
            arrays[f"{name}/checksum"] = np.uint32(checksum(folder))
            pipeline = load(folder)
            for num_steps in STEPS:
                images = draw(pipeline, make_noise(), num_steps)
                arrays[f"{name}/{num_steps}"] = images
    np.savez_compressed(Path(directory) / "diffusers_pipelines.npz", **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
