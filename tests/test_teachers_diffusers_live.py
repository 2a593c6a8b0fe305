"""Networks and schedulers of diffusers, run beside ours; skipped without it."""

import itertools

import numpy as np
import pytest

from progdist import teachers
from progdist.sampling import cards
from tests import diffusers_models as models
from tests.test_teachers_diffusers import (
    arrays_of,
    assert_equal,
    network_output,
    our_states,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
goldens = pytest.importorskip("tests.diffusers_goldens")

pytestmark = pytest.mark.filterwarnings("ignore")

PLAIN = models.CASES["ddpm"] | {"layers_per_block": 1, "attention_head_dim": 4}
OPTIONS = {
    "flip_sin_to_cos": (True, False),
    "freq_shift": (0, 1),
    "downsample_padding": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "add_attention": (True, False),
    "attn_norm_num_groups": (None, 2),
    "attention_head_dim": (None, 8),
    "num_class_embeds": (None, 5),
    "class_embed_type": (None, "timestep"),
    "center_input_sample": (False, True),
    "mid_block_scale_factor": (1, 1.4142135),
    "out_channels": (3, 6),
    "norm_eps": (1e-5, 1e-2),
    "layers_per_block": (1, 2),
}
BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


def draw(seed):
    """A network of random options, which every seed combines in another way."""
    rng = np.random.default_rng(seed)
    config = PLAIN | {name: values[rng.integers(2)] for name, values in OPTIONS.items()}
    for name, types in BLOCKS.items():
        config[name] = [types[rng.integers(3)] for _ in range(2)]
    if config["class_embed_type"] == "timestep":
        config["num_class_embeds"] = 5
    return {n: v for n, v in config.items() if (n, v) != ("num_class_embeds", None)}


def pipeline(path, net, scheduler):
    """Writes the network as diffusers does; returns its folder."""
    net.save_pretrained(path / "unet")
    scheduler.save_pretrained(path / "scheduler")
    return path / "unet"


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_are_equal(seed, tmp_path):
    config = draw(seed)
    net = goldens.make_net(config)
    scheduler = goldens.make_scheduler(models.scheduler_config("linear"))
    teacher = teachers.read_teacher(pipeline(tmp_path, net, scheduler))
    model = cards.model_of(teacher.card, "a test")
    ours = network_output(model, teacher.read(), config, models.TIMESTEPS)
    assert_equal(ours, goldens.outputs(net, config, models.TIMESTEPS), 1e-5)


def test_every_option_is_drawn():
    drawn = [draw(seed) for seed in range(8)]
    for name, values in OPTIONS.items():
        assert {config.get(name) for config in drawn} >= set(values) - {None}, name
    for name, types in BLOCKS.items():
        used = itertools.chain.from_iterable(config[name] for config in drawn)
        assert set(used) == set(types)


@pytest.mark.parametrize("case", models.TRAJECTORIES)
def test_ddim_goes_where_the_scheduler_goes(case, tmp_path):
    net = goldens.make_net(models.TINY)
    settings = models.scheduler_config(*case)
    path = pipeline(tmp_path, net, goldens.make_scheduler(settings))
    teacher = teachers.read_teacher(path)
    model = cards.model_of(teacher.card, "a test")
    z = models.inputs(models.TINY)[0][:2]
    ours = our_states(model, teacher.read(), z, teacher.card["clip"])
    theirs = goldens.trajectory(net, settings, z)
    for our, their in zip(ours, theirs, strict=True):
        assert_equal(our, their, 1e-4)


def test_pipelines_and_pickles_that_diffusers_writes(tmp_path):
    net = goldens.make_net(models.CASES["ddpm"])
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large")
    pipe = diffusers.DDPMPipeline(unet=net, scheduler=scheduler)
    pipe.save_pretrained(tmp_path / "safe")
    pipe.save_pretrained(tmp_path / "bin", safe_serialization=False)
    safe, pickled = arrays_of(tmp_path / "safe"), arrays_of(tmp_path / "bin")
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(safe[name], tensor.numpy())
        np.testing.assert_array_equal(pickled[name], tensor.numpy())


def test_half_precision_and_shards(tmp_path):
    net = goldens.make_net(models.CASES["ddpm"])
    scheduler = goldens.make_scheduler(models.scheduler_config("linear"))
    half = pipeline(tmp_path / "half", net.half(), scheduler)
    assert all(array.dtype == np.float32 for array in arrays_of(half).values())
    net.save_pretrained(half, max_shard_size="20KB")
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(arrays_of(half)[name], tensor.float().numpy())
