"""The network of diffusers at its published size, and its settings."""

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import parallel, preflight
from progdist.config import Config, ConfigError, load_preset, net_from_dict
from progdist.config.check import check
from progdist.data import Batch
from progdist.model import param_shapes
from progdist.nets.blocks import Dropout
from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.nets.guided_settings import GuidedUNetConfig
from progdist.nets.networks import make_net
from progdist.nets.settings import UNetConfig, norm_groups
from progdist.nets.types import Timesteps
from progdist.trainer import recipes
from tests.diffusers_models import FAST

ROOT = Path(__file__).parents[1]
# Of google/ddpm-cifar10-32; diffusers counts 35,746,307 parameters.
PUBLISHED = DiffusersUNetConfig(
    block_out_channels=(128, 256, 256, 256),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=0,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
)
WIDE = dataclasses.replace(PUBLISHED, block_out_channels=(160, 320, 320, 384))
SMALL = DiffusersUNetConfig(
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("AttnUpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
)


def config_of(net, shape=(32, 32, 3)) -> Config:
    """A configuration with this network."""
    config = load_preset("digits", "smoke")
    config.net, config.data.image_shape = net, shape
    config.parameterization, config.schedule = "eps", "timesteps"
    return config


def test_the_published_network_has_as_many_parameters():
    shapes = param_shapes(preflight.make_model(config_of(PUBLISHED)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 35746307


@pytest.mark.slow
def test_the_step_towards_a_teacher_of_62_million_parameters_compiles():
    config, mesh = config_of(PUBLISHED), parallel.make_mesh(jax.devices()[:1])
    config.net = dataclasses.replace(
        config.net, block_out_channels=(128, 256, 384, 384)
    )
    check(config)
    models = preflight.make_models(config)
    teacher = models.target._replace(parameterization="eps")
    shapes = jax.tree.leaves(param_shapes(teacher))
    assert sum(leaf.size for leaf in shapes) > 61_000_000
    recipe = recipes.make_recipe("reparameterize", config, models, teacher, mesh)
    snapshot = recipes.make_template(recipe, 0, mesh)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(jax.random.key, 0)
    round_ = recipes.steps.Round(snapshot.teacher_params, number, number, key)
    batch = Batch(np.zeros((8, 32, 32, 3), np.float32), np.zeros(8, np.int32))
    compiled = recipe.train_step.lower(snapshot.state, round_, batch).compile()
    # Parameters, Adam's two moments, the average, and the teacher.
    assert compiled.memory_analysis().argument_size_in_bytes > 4 * 4 * 61_000_000


def apply(net, dropout=None):
    """The network's output for two equal images, with parameters at random."""
    module = make_net(net, 3)
    z = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    z, logsnr = z.at[1].set(z[0]), jnp.zeros(2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), z, logsnr)
    rng = np.random.default_rng(0)
    draw = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape), shapes)
    params = jax.tree.map(np.float32, draw)
    run = jax.jit(module.apply, compiler_options=FAST)
    return run(params, z, logsnr, None, dropout)


def test_recomputation_and_dtype_change_nothing_but_rounding():
    plain = apply(SMALL)
    for fields, tolerance in (
        ({"remat": "blocks"}, 1e-5),
        ({"dtype": "bfloat16"}, 0.1),
    ):
        other = apply(dataclasses.replace(SMALL, **fields))
        assert other.dtype == jnp.float32
        scale = jnp.abs(plain).max()
        assert jnp.abs(other - plain).max() <= tolerance * scale


def test_dropout_has_a_mask_per_example():
    keys = jax.random.split(jax.random.key(0), 2)
    one, other = apply(SMALL, Dropout(keys, 0.5))
    assert jnp.abs(one - other).max() > 1e-3
    same, again = apply(SMALL, Dropout(keys[jnp.array([0, 0])], 0.5))
    np.testing.assert_allclose(same, again, atol=1e-5)


def test_inputs_that_do_not_fit():
    two = {
        f"{way}_block_types": (f"{way.title()}Block2D",) * 2 for way in ("up", "down")
    }
    config = dataclasses.replace(SMALL, block_out_channels=(8, 8), num_classes=2, **two)
    module = make_net(config, 3)
    key, level = jax.random.key(0), jnp.zeros(1)
    with pytest.raises(ValueError, match="7x8: height and width must be divisible"):
        module.init(key, jnp.zeros((1, 7, 8, 3)), level)
    with pytest.raises(ValueError, match="label is None, num_classes=2 needs one"):
        module.init(key, jnp.zeros((1, 8, 8, 3)), level)


def test_settings_are_told_apart_by_their_fields():
    ours = dataclasses.asdict(dataclasses.replace(SMALL, timesteps=Timesteps("linear")))
    assert net_from_dict(ours) == SMALL
    unet = dataclasses.asdict(UNetConfig(ch=32))
    for names in (unet, ["ch"], ["num_classes"], ["dtype", "remat", "num_classes"]):
        assert type(net_from_dict({n: unet[n] for n in names})) is UNetConfig
    for names in (ours, ["timesteps"], ["timesteps", "num_classes", "dtype"]):
        read = net_from_dict({name: ours[name] for name in names})
        assert type(read) is DiffusersUNetConfig
    with pytest.raises(TypeError, match="'later' is no field of version"):
        net_from_dict(ours | {"later": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trained_betas": ("a",)}, "must be a tuple of numbers"),
        ({"num_timesteps": 0}, "config.net.timesteps.num_timesteps=0: must be 1 to"),
        ({"betas": "none"}, "net.timesteps.betas='none': must be one of linear"),
    ],
)
@pytest.mark.parametrize("net", [SMALL, GuidedUNetConfig()], ids=["own", "guided"])
def test_bad_timesteps_are_refused(net, fields, message):
    config = config_of(dataclasses.replace(net, timesteps=Timesteps()), (8, 8, 1))
    for name, value in fields.items():
        setattr(config.net.timesteps, name, value)
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_small_variants_fit_every_network():
    for net in (PUBLISHED, WIDE, SMALL):
        small = net.smoke((32, 32, 3))
        small.check((32, 32, 3))
        assert small.portable() == small
        assert len(small.block_out_channels) == min(2, len(net.block_out_channels))
    assert norm_groups(PUBLISHED) == 32


def test_a_teacher_with_other_settings_is_refused(tmp_path):
    card = {"net": dataclasses.asdict(dataclasses.replace(SMALL, norm_eps=1e-3))}
    with pytest.raises(ConfigError, match=r"trained with net.norm_eps=0.001, the conf"):
        preflight.check_settings(tmp_path, card, SMALL)
    card = {"net": dataclasses.asdict(dataclasses.replace(SMALL, remat="blocks"))}
    preflight.check_settings(tmp_path, card, SMALL)


@pytest.mark.slow
def test_memory_of_converting_a_large_network(tmp_path):
    """Peak memory is below five times the parameters."""
    code = (
        "import sys; from pathlib import Path;"
        "from tests import test_diffusers_unet as t;"
        "print(t.peak_of_converting(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": True},
    )
    before, after = map(int, done.stdout.split()[-2:])
    size = 4 * 63735747
    assert (after - before) < 5 * size
    print(f"{(after - before) / size:.2f} times the parameters")


def peak_of_converting(folder: Path) -> str:
    """Peak memory of this process before and after a conversion, in bytes."""
    from progdist.commands import convert
    from tests import diffusers_models as models
    from tests.diffusers_models import torch_shapes

    config = {
        **{"sample_size": 32, "block_out_channels": WIDE.block_out_channels},
        **{"down_block_types": WIDE.down_block_types, "downsample_padding": 0},
        **{"up_block_types": WIDE.up_block_types, "attention_head_dim": None},
    }
    shapes = torch_shapes(preflight.make_model(config_of(WIDE)))
    code = (
        "import sys, json; from pathlib import Path;"
        "from tests import diffusers_models as models;"
        "models.write_pipeline(Path(sys.argv[1]), *json.loads(sys.argv[2]))"
    )
    settings = json.dumps([config, models.scheduler_config("linear"), shapes])
    command = [sys.executable, "-c", code, str(folder / "p"), settings]
    subprocess.run(command, check=True)  # its memory is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    convert.main(["progdist convert", str(folder / "p"), f"--out={folder / 'out'}"])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{before * 1024} {after * 1024}"
