"""Networks of diffusers as teachers: equal to theirs, and refused in one line.

`golden/diffusers.npz` holds what diffusers computed, with parameters by the rule of
golden/README.md; where it is installed, its networks are also run.
"""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import progdist
from progdist import teachers
from progdist.checkpoint import torch_names
from progdist.commands import convert
from progdist.diffusion import samplers
from progdist.errors import InputError
from progdist.model import bind
from progdist.nets.conditioning import Conditioning
from progdist.nets.timesteps import logsnr_of
from progdist.sampling import cards
from tests import diffusers_models as models
from tests.diffusers_models import CASES, TIMESTEPS

GOLDEN = np.load(Path(__file__).parent / "golden" / "diffusers.npz")
every_case = pytest.mark.parametrize("name", CASES)
# The others are compared live.
some_trajectories = pytest.mark.parametrize(
    "case",
    [
        ("linear", "epsilon", True),
        ("scaled", "v_prediction", True),
        ("cosine", "epsilon", False),
        ("zero", "v_prediction", False),
    ],
    ids=lambda case: models.key(*case),
)


def network_output(model, params, config, timesteps):
    """Our network's output for the inputs of a case, at the log-SNR of timesteps."""
    z, label = models.inputs(config)
    levels = logsnr_of(model.net.config.timesteps)[np.asarray(timesteps)]
    conditioning = Conditioning(jax.numpy.asarray(label))
    apply = jax.jit(model.net.apply, compiler_options=models.FAST)
    return apply({"params": params}, z, np.float32(levels), conditioning)


def assert_equal(ours, theirs, tolerance):
    """Their difference is at most the tolerance times the greatest value."""
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@every_case
def test_outputs_are_those_of_diffusers(name, tmp_path):
    config, scheduler = CASES[name], models.scheduler_config("linear")
    path, shapes = models.write_random(tmp_path, config, scheduler, name == "variance")
    assert models.digest(shapes) == GOLDEN[f"{name}/digest"]
    teacher = teachers.read_teacher(path)
    model = cards.model_of(teacher.card, "a test")
    ours = network_output(model, teacher.read(), config, TIMESTEPS)
    assert_equal(ours, GOLDEN[f"{name}/output"], 1e-5)


def our_states(model, params, z, clip):
    """The states of our DDIM, in diffusers' number of steps."""

    @functools.partial(jax.jit, compiler_options=models.FAST)
    def states(params, z):
        denoise = bind(model, params)
        steps = models.NUM_STEPS
        schedule = model.schedule
        return samplers.trajectory(denoise, schedule, z, num_steps=steps, clip=clip).z

    return states(params, z)


@some_trajectories
def test_ddim_goes_where_diffusers_goes(case, tmp_path):
    path, _ = models.write_random(tmp_path, models.TINY, models.scheduler_config(*case))
    teacher = teachers.read_teacher(path)
    clip = "keep" if case[2] else "none"
    assert teacher.card["clip"] == clip
    model = cards.model_of(teacher.card, "a test")
    z = models.inputs(models.TINY)[0][:2]
    ours = our_states(model, teacher.read(), z, clip)[np.array([5, 10])]
    for our, their in zip(ours, GOLDEN[f"trajectory/{models.key(*case)}"], strict=True):
        assert_equal(our, their, 1e-4)


def run_convert(source, out, *flags):
    """Runs the command, and opens the model that it wrote."""
    convert.main(["progdist convert", str(source), f"--out={out}", *flags])
    return progdist.load(out, models.NUM_STEPS)


def test_a_converted_model_draws_what_the_pipeline_draws(tmp_path):
    case = ("linear", "v_prediction", True)
    path, _ = models.write_random(
        tmp_path / "p", models.TINY, models.scheduler_config(*case)
    )
    (path / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Hi\n")
    model = run_convert(path, tmp_path / "out")
    card = {n: model.card[n] for n in ("origin", "license", "clip", "output")}
    expected = {"origin": "p", "license": "apache-2.0", "clip": "keep"}
    assert card == {**expected, "output": "v"}
    assert (model.card["num_steps"], model.card["phase"]) == (1000, 0)
    z = models.inputs(models.TINY)[0][:2]
    ours = our_states(model.model, model.params, z, "keep")[np.array([5, 10])]
    assert_equal(ours, GOLDEN[f"trajectory/{models.key(*case)}"], 1e-4)
    drawn = model.sample(2, clip="keep")
    states = model.trajectory(2, clip="keep")
    np.testing.assert_allclose(drawn, 127.5 * (states[-1].clip(-1, 1) + 1), atol=0.51)


@pytest.fixture
def folder(tmp_path):
    """A small pipeline."""
    return models.write_random(
        tmp_path / "p", models.TINY, models.scheduler_config("linear")
    )[0]


def edit(path, **fields):
    """Changes fields of a JSON file; None removes one."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({n: v for n, v in values.items() if v != "absent"}))


def refusal(source, tmp_path, *flags):
    """The single line with which the command refuses a source."""
    with pytest.raises(InputError) as caught:
        run_convert(source, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "'UNet2DConditionModel' is not one"),
        ({"down_block_types": ["SkipDownBlock2D"]}, "'SkipDownBlock2D' is not one of"),
        ({"up_block_types": ["AttnSkipUpBlock2D"]}, "'AttnSkipUpBlock2D' is not one"),
        ({"up_block_types": "UpBlock2D"}, "up_block_types is 'UpBlock2D', must be a"),
        ({"up_block_types": []}, r"up_block_types=\(\): must be 1 blocks"),
        ({"time_embedding_type": "fourier"}, "'fourier' is not one of positional"),
        ({"mid_block_type": None}, "mid_block_type: 'None' is not one"),
        ({"act_fn": "mish"}, "act_fn: 'mish' is not one of silu, swish"),
        ({"class_embed_type": "identity"}, "'identity' is not one of None, timestep"),
        ({"class_embed_type": "timestep"}, "num_classes=0: must be at least 1"),
        ({"downsample_type": "fir"}, "'fir' is not one of conv, resnet"),
        ({"resnet_time_scale_shift": "spatial"}, "'spatial' is not one of default"),
        ({"downsample_padding": 2}, "downsample_padding=2: must be 0 or 1"),
        ({"encoder_hid_dim": 3}, "encoder_hid_dim is not a known field"),
        ({"norm_num_groups": 3}, r"norm_num_groups=3: must be a divisor of"),
        ({"attention_head_dim": 3, "add_attention": True}, "attention_head_dim=3"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5', accepted is a number"),
        ({"layers_per_block": True}, "layers_per_block is True, accepted is a whole"),
        ({"out_channels": 4}, "out_channels is 4, accepted are in_channels=3 and"),
        ({"in_channels": 4, "out_channels": 4}, "in_channels is 4, accepted are 1 and"),
        ({"sample_size": None}, "sample_size is None, accepted is a side or"),
        ({"block_out_channels": [8.0]}, "block_out_channels: must be whole numbers"),
        ({"block_out_channels": []}, "must be at least one level"),
    ],
)
def test_networks_that_are_not_supported(fields, message, folder, tmp_path):
    edit(folder / "unet" / "config.json", **fields)
    with pytest.raises(InputError, match=message):
        teachers.read_teacher(folder)
    assert "config.json: " in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "'ScoreSdeVeScheduler' is not one of"),
        ({"_class_name": "absent"}, "_class_name: 'None' is not one of DDPMScheduler"),
        ({"beta_schedule": "sigmoid"}, "'sigmoid' is not one of linear, scaled_linear"),
        ({"prediction_type": "flow"}, "'flow' is not one of epsilon, v_prediction"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr needs prediction"),
        ({"trained_betas": ["a"]}, "trained_betas: must be numbers"),
        ({"trained_betas": [2.0]}, "trained_betas: must be 1 numbers in"),
        ({"num_train_timesteps": 1e3}, "num_train_timesteps is 1000.0, accepted is a"),
        ({"beta_start": -1}, "beta_start=-1.0: must be above 0 and below 1"),
        ({"thresholding": 1}, "thresholding is 1, accepted is true or false"),
    ],
)
def test_noise_levels_that_are_not_supported(fields, message, folder, tmp_path):
    path = folder / "scheduler" / "scheduler_config.json"
    edit(path, **fields)
    text = refusal(folder, tmp_path)
    assert text.startswith(f"{path}: ")
    assert message in text


def test_without_a_scheduler_the_flags_say_it(folder, tmp_path):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    assert "pass --betas and --output" in refusal(folder / "unet", tmp_path)
    assert "--betas and --output" in refusal(folder, tmp_path, "--output=v")
    flags = teachers.Options(output="v", betas="squaredcos_cap_v2")
    card = teachers.read_teacher(folder / "unet", flags).card
    assert card["output"] == "v"
    assert "clip" not in card
    assert card["net"]["timesteps"]["betas"] == "squaredcos_cap_v2"


def test_the_parts_may_lie_in_one_folder(folder, tmp_path):
    before = teachers.read_teacher(folder)
    params = before.read()
    for path in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        path.rename(folder / path.name)
    (folder / "unet").rmdir()
    after = teachers.read_teacher(folder)
    assert after.card == before.card
    jax.tree.map(np.testing.assert_array_equal, after.read(), params)


def test_other_pipelines_are_refused(folder, tmp_path):
    index = folder / "model_index.json"
    edit(index, vqvae=["diffusers", "VQModel"])
    assert "'vqvae' is not one of unet, scheduler" in refusal(folder, tmp_path)
    edit(index, vqvae="absent", unet=["diffusers", "UNet1DModel"])
    assert "its unet is UNet1DModel, accepted is" in refusal(folder, tmp_path)
    index.write_text("{")
    assert "not JSON" in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("fields", "clip"),
    [
        ({"thresholding": True}, "thresholding"),
        ({"clip_sample": False}, "none"),
        ({"clip_sample": "absent"}, "keep"),
        ({"clip_sample": "absent", "_class_name": "PNDMScheduler"}, "none"),
        ({"clip_sample_range": 2}, "keep in ±2"),
    ],
)
def test_the_card_records_the_clipping(fields, clip, folder):
    edit(folder / "scheduler" / "scheduler_config.json", **fields)
    assert teachers.read_teacher(folder).card["clip"] == clip


def arrays_of(folder):
    """The parameters of the network by their names in PyTorch."""
    leaves = flatten_dict(teachers.read_teacher(folder).read(), sep="/")
    return dict(torch_names.to_torch(path, leaf) for path, leaf in leaves.items())


CONV = "down_blocks.0.resnets.0.conv1.weight"
NAN = np.full((8, 8, 3, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (CONV, None, f"its weights lack {CONV}"),
        ("extra.weight", np.zeros(3), "extra.weight is not a parameter of this"),
        (CONV, np.zeros((8, 8, 3, 2)), r"shape \(8, 8, 3, 2\), but the network of"),
        (CONV, NAN, f"{CONV} has values that are not finite"),
        (CONV, np.zeros((8, 8, 3, 3), np.int32), "is of type int32, accepted are"),
    ],
)
def test_parameters_that_do_not_fit(name, value, message, folder, tmp_path):
    arrays = arrays_of(folder) | {name: value}
    kept = {name: array for name, array in arrays.items() if array is not None}
    models.write_model(folder / "unet", models.TINY, kept)
    with pytest.raises(InputError, match=message):
        teachers.read_teacher(folder).read()
    assert "unet" in refusal(folder, tmp_path)


def test_damaged_and_missing_weights(folder, tmp_path):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "not a safetensors file" in refusal(folder, tmp_path)
    path.rename(path.with_suffix(".bin"))
    assert "not a file of weights" in refusal(folder, tmp_path)
    path.with_suffix(".bin").unlink()
    assert "holds neither diffusion_pytorch_model" in refusal(folder, tmp_path)


def test_shards_are_read_as_one_file(folder, tmp_path):
    arrays, unet = arrays_of(folder), folder / "unet"
    (whole,) = unet.glob("*.safetensors")
    parts = {"a.safetensors": list(arrays)[:9], "b.safetensors": list(arrays)[9:]}
    for name, names in parts.items():
        models.write_model(unet, models.TINY, {n: arrays[n] for n in names})
        whole.rename(unet / name)
    index = unet / f"{whole.name}.index.json"
    weight_map = {n: part for part, names in parts.items() for n in names}
    models.write_json(index, {"weight_map": weight_map})
    assert arrays_of(folder).keys() == arrays.keys()
    models.write_json(index, {"weight_map": {CONV: "../unet/a.safetensors"}})
    assert "is not a file beside it" in refusal(folder, tmp_path)


def test_attention_under_its_names_before_2023(tmp_path):
    path, _ = models.write_random(
        tmp_path, CASES["ddpm"], models.scheduler_config("linear")
    )
    current, olds = arrays_of(path), {"to_q": "query", "to_k": "key", "to_v": "value"}
    old = current
    for new, name in (olds | {"to_out.0": "proj_attn"}).items():
        old = {n.replace(f".{new}.", f".{name}."): a for n, a in old.items()}
    assert "mid_block.attentions.0.query.weight" in old
    models.write_model(path / "unet", CASES["ddpm"], old)
    again = arrays_of(path)
    assert all((again[name] == array).all() for name, array in current.items())
