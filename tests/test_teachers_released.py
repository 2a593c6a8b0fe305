"""Checkpoints released with the paper, in files like theirs with fewer parameters.

The parameters are those with which the published network made `golden/unet.npz`.
"""

import functools

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from progdist import parallel
from progdist.diffusion.prediction import from_output
from progdist.model import bind, param_template
from progdist.nets.conditioning import Conditioning
from progdist.nets.settings import UNetConfig
from progdist.nets.unet import UNet
from progdist.sampling import cards
from progdist.teachers import Options, load, read_teacher
from tests import converting
from tests.diffusers_models import FAST
from tests.published_unet import GOLDEN, REDUCED, parameters

OUTPUTS = {"cifar10": "x", "imagenet64": "both", "lsun": "both"}


@functools.cache
def params_of(name):
    net = UNet(**REDUCED[name], num_groups=32)
    z = jnp.asarray(GOLDEN[f"{name}/z"])
    inputs = z, jnp.zeros(len(z)), Conditioning(jnp.zeros(len(z), int))
    return parameters(jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"])


def write(path, params, **fields):
    """A train state as released: normalisations have axes of size 1."""
    leaves = flatten_dict(params)
    for place, leaf in leaves.items():
        if "norm" in place[-2]:
            leaves[place] = leaf.reshape(1, 1, 1, -1)
    state = {"step": 1, "optimizer": None, "ema_params": unflatten_dict(leaves)}
    path.write_bytes(flax.serialization.msgpack_serialize(state | fields))
    return path


def image_size(name):
    return GOLDEN[f"{name}/z"].shape[1]


def expected(name):
    """The prediction by the published network's output."""
    fields = (GOLDEN[f"{name}/{field}"] for field in ("output", "z", "logsnr"))
    return from_output(*map(jnp.asarray, fields), OUTPUTS[name])


# The networks of the other two take long to compile.
@pytest.mark.parametrize(
    "name",
    [
        "cifar10",
        pytest.param("imagenet64", marks=pytest.mark.slow),
        pytest.param("lsun", marks=pytest.mark.slow),
    ],
)
def test_a_converted_file_denoises_as_published(name, tmp_path, monkeypatch):
    source = write(tmp_path / name, params_of(name), num_sample_steps=4)
    facts = {"image_size": image_size(name)}
    model = converting.converted(source, tmp_path / "out", facts, monkeypatch)
    inputs = (GOLDEN[f"{name}/{field}"] for field in ("z", "logsnr", "label"))
    denoise = jax.jit(bind(model.model, model.params), compiler_options=FAST)
    z, logsnr, label = inputs
    found = denoise(z, np.float32(logsnr), Conditioning(np.int32(label)))
    scale = abs(expected(name).v).max()
    np.testing.assert_allclose(found.v, expected(name).v, rtol=0, atol=2e-5 * scale)
    assert (model.card["phase"], model.num_steps) == (1, 4)


@pytest.mark.parametrize(
    "name", ["cifar10", "imagenet64", pytest.param("lsun", marks=pytest.mark.slow)]
)
def test_the_network_and_its_parameters_are_found(name, tmp_path):
    """With which `test_unet_published.py` finds the published outputs."""
    params = params_of(name)
    source = write(tmp_path / name, params)
    teacher = read_teacher(source, Options(image_size=image_size(name)))
    settings = {k: v for k, v in REDUCED[name].items() if k != "out_ch"}
    net = UNetConfig(**teacher.card["net"])
    assert net == UNetConfig(**settings, num_groups=32)
    assert (teacher.card["output"], teacher.card["schedule"]) == (
        OUTPUTS[name],
        "cosine",
    )
    model = cards.model_of(teacher.card, "a test")
    found = load(teacher, param_template(model, parallel.make_mesh()), "a test")
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    ("name", "size", "num_steps"),
    [("cifar10", 32, 8192), ("imagenet64", 64, 1024), ("lsun", 128, 1024)],
)
def test_an_original_takes_the_published_facts(name, size, num_steps, tmp_path):
    card = read_teacher(write(tmp_path / name, params_of(name))).card
    assert card["image_shape"] == [size, size, 3]
    assert (card["phase"], card["num_steps"]) == (0, num_steps)
    # The file itself shows the levels with attention.
    heights = [size // 2**level for level in range(5)]
    assert set(card["net"]["attn_resolutions"]) <= set(heights)


@pytest.mark.parametrize("change", [{}, {"image_size": 16}])
def test_a_network_of_no_published_form_needs_flags(
    change, tmp_path, capsys, monkeypatch
):
    params = {
        name: leaf
        for name, leaf in params_of("cifar10").items()
        if not name.startswith(("down_2", "up_2"))
    }
    source, out = write(tmp_path / "own", params), tmp_path / "out"
    said = converting.refusal(source, out, capsys, monkeypatch, **change)
    flag = "--output" if change else "--image_size"
    assert said.startswith(f"{flag} is missing: {source} does not show")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"output": "both"}, "--output=both: "),
        ({"image_size": 30}, "must be such that the image_shape"),
    ],
)
def test_facts_that_do_not_fit_are_refused(
    facts, message, tmp_path, capsys, monkeypatch
):
    source = write(tmp_path / "cifar_8", params_of("cifar10"))
    said = converting.refusal(source, tmp_path / "out", capsys, monkeypatch, **facts)
    assert message in said
