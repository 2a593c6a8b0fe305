"""Models exported as pipelines of diffusers: the files, and what diffusers draws.

`golden/diffusers_pipelines.npz` holds what `DDIMPipeline` drew from the same folders;
`golden/README.md` has its versions. Where torch and diffusers are installed, they draw
again.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import progdist
from progdist import teachers
from progdist.commands import export
from progdist.diffusion import samplers
from progdist.errors import UsageError
from progdist.export import diffusers
from progdist.model import bind
from progdist.nets.settings import UNetConfig
from progdist.nets.types import Timesteps
from progdist.teachers import Options
from progdist.teachers.diffusers_config import Found, net_of
from progdist.workdir import provenance
from tests import diffusers_models, diffusers_pipelines as pipelines
from tests.commands import answer
from tests.diffusers_pipelines import CASES, IMAGE_SHAPE, SMALL, STEPS

GOLDEN = np.load(Path(__file__).parent / "golden" / "diffusers_pipelines.npz")
LEVEL = 1 / 255
# Log-SNR ends at -20, not at minus infinity.
TOLERANCE = {"v_zero": 3e-4}
RICH = dataclasses.replace(
    SMALL,
    down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"),
    time_embedding_dim=24,
    flip_sin_to_cos=False,
    freq_shift=1,
    resnet_time_scale_shift="scale_shift",
    downsample_padding=0,
    attn_norm_num_groups=2,
    norm_eps=1e-6,
    class_embed_type="timestep",
    num_classes=3,
)
NETS = {
    "small": SMALL,
    "rich": RICH,
    "classes": dataclasses.replace(SMALL, num_classes=3),
    "single": dataclasses.replace(SMALL, attention_head_dim=0, add_attention=False),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Draws the pictures of a folder at once."""

    def draw(self, num, **_):
        return np.full((num, *self.image_shape), 100, np.uint8)

    monkeypatch.setattr(progdist.Pretrained, "sample", draw)


def read_json(path):
    return json.loads(path.read_text())


# --- what diffusers draws


def images_of(model):
    """Our sampler from the noise, for any number of steps."""
    return jax.jit(
        lambda z_1, num_steps: samplers.sample(
            bind(model.model, model.params),
            model.model.schedule,
            z_1,
            num_steps=num_steps,
        )
    )


def check_images(name, ours, theirs):
    """Compares images in [-1, 1] with those of diffusers, in [0, 1]."""
    np.testing.assert_allclose(ours, 2 * theirs - 1, atol=TOLERANCE.get(name, 1e-5))
    as_bytes = np.round((ours + 1) * 127.5)
    assert np.abs(as_bytes - np.round(255 * theirs)).max() <= 1


@pytest.mark.parametrize("name", CASES)
def test_diffusers_draws_the_same_images(name, tmp_path):
    model = pipelines.make_case(name)
    draw, noise = images_of(model), pipelines.make_noise()
    for num_steps in STEPS:
        ours = np.asarray(draw(noise, num_steps))
        check_images(name, ours, GOLDEN[f"{name}/{num_steps}"])
        # Clipping is at work, and does not decide every pixel.
        assert 0 < (np.abs(ours) == 1).mean() < 0.8


@pytest.mark.parametrize("name", CASES)
def test_the_folder_is_that_from_which_diffusers_drew(name, tmp_path):
    folder = pipelines.export(tmp_path, pipelines.make_case(name))
    assert pipelines.checksum(folder) == GOLDEN[f"{name}/checksum"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_diffusers_draws_the_same_images_live(name, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    model = pipelines.make_case(name)
    draw, noise = images_of(model), pipelines.make_noise()
    pipeline = pipelines.load(pipelines.export(tmp_path, model))
    for num_steps in STEPS:
        theirs = pipelines.draw(pipeline, noise, num_steps)
        check_images(name, np.asarray(draw(noise, num_steps)), theirs)


@pytest.mark.parametrize("name", ["classes", "rich"])
@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_the_readme_draws_a_class_live(name, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    model = pipelines.make(NETS[name], "v")
    folder = pipelines.export(tmp_path, model)
    shape = 16, *IMAGE_SHAPE
    noise = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    tensor = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(torch, "randn", lambda *_: tensor)
    names = {}
    exec(code_of(folder).replace("PATH", str(folder)), names)
    label = jax.numpy.zeros(16, int)
    conditioned = progdist.Conditioning(label)
    images = samplers.sample(
        lambda z, logsnr: model.denoise(z, logsnr, conditioned),
        model.model.schedule,
        jax.numpy.asarray(noise),
        num_steps=4,
    )
    theirs = names["images"].numpy().transpose(0, 2, 3, 1).astype(int)
    ours = np.round((np.asarray(images) + 1) * 127.5)
    assert np.abs(ours - theirs).max() <= 1
    assert theirs.std() > 10


@pytest.mark.filterwarnings("ignore")
def test_the_call_of_the_readme_draws_images_live(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    folder = pipelines.export(tmp_path, pipelines.make_case("v"))
    names = {}
    exec(code_of(folder).replace("PATH", str(folder)), names)
    assert len(names["images"]) == 16
    assert names["images"][0].size == IMAGE_SHAPE[:2]


# --- the files


def test_the_folder_is_complete_and_readable(tmp_path):
    folder = pipelines.export(tmp_path, pipelines.make_case("eps"))
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        *("model_index.json", "README.md", "samples.png", "unet/config.json"),
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    }
    assert read_json(folder / "model_index.json") == {
        "_class_name": "DDIMPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_the_scheduler_has_the_levels_of_the_network(name):
    output, timesteps = CASES[name]
    config = diffusers.scheduler_config(timesteps, output)
    theirs = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
    assert config["prediction_type"] == theirs[output]
    assert config["num_train_timesteps"] == timesteps.num_timesteps
    assert config["rescale_betas_zero_snr"] == (name == "v_zero")
    assert config["trained_betas"] == (list(pipelines.BETAS) if name == "x" else None)
    assert (config["timestep_spacing"], config["steps_offset"]) == ("trailing", 0)
    assert config["set_alpha_to_one"]
    assert (config["clip_sample"], config["clip_sample_range"]) == (True, 1.0)


def test_a_network_has_the_settings_of_unet2dmodel():
    config = diffusers.unet_config(RICH, (8, 16, 3))
    assert config["sample_size"] == [8, 16]
    assert config["in_channels"] == config["out_channels"] == 3
    assert config["num_class_embeds"] == 3
    assert config["class_embed_type"] == "timestep"
    assert not {"num_classes", "timesteps", "dtype", "remat"} & config.keys()
    plain = diffusers.unet_config(SMALL, (8, 8, 1))
    assert plain["sample_size"] == 8
    for field in ("class_embed_type", "num_class_embeds", "time_embedding_dim"):
        assert plain[field] is None


@pytest.mark.parametrize("name", diffusers_models.CASES)
def test_the_settings_of_every_network_that_is_read_come_back(name):
    source = diffusers_models.CASES[name]
    net, shapes = net_of(Found(Path("a"), source), Timesteps())
    config = diffusers.unet_config(net, shapes.image_shape)
    again = net_of(Found(Path("b"), json.loads(json.dumps(config))), Timesteps())
    assert again[0] == net
    assert again[1].image_shape == shapes.image_shape
    for field in ("sample_size", "block_out_channels", "norm_num_groups"):
        assert json.loads(json.dumps(config[field])) == source[field]


@pytest.mark.parametrize("name", NETS)
def test_a_folder_is_read_as_the_model_that_was_exported(name, tmp_path):
    model = pipelines.make(NETS[name], "v", license="mit")
    folder = pipelines.export(tmp_path, model)
    teacher = teachers.read_teacher(folder, Options())
    assert teacher.card["net"] == dataclasses.asdict(NETS[name])
    assert teacher.card["license"] == "mit"
    for field in ("output", "schedule", "image_shape", "num_classes"):
        assert teacher.card[field] == model.card[field]
    jax.tree.map(np.testing.assert_array_equal, teacher.read(), model.params)


@pytest.mark.slow
def test_a_folder_converts_to_the_model_that_was_exported(tmp_path):
    model = pipelines.make(RICH)
    folder = pipelines.export(tmp_path, model)
    teacher = teachers.read_teacher(folder, Options())
    teachers.convert(teacher, tmp_path / "converted", str(folder))
    converted = progdist.load(tmp_path / "converted", 4)
    assert converted.digest == model.digest
    assert converted.model == model.model  # and so draws the same


# --- the page


def code_of(folder):
    (code,) = re.findall(
        r"^```python\n(.*?)^```$",
        (folder / "README.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    return code


def test_the_page_names_the_teacher_and_its_license(tmp_path):
    facts = {"origin": "google/ddpm-cifar10-32", "license": "apache-2.0"}
    model = pipelines.make(**facts)
    text = (pipelines.export(tmp_path, model) / "README.md").read_text()
    _, front, page = text.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "diffusers"
    assert {"diffusion", "progressive-distillation"} <= set(values["tags"])
    teacher = "the teacher `google/ddpm-cifar10-32` (licence `apache-2.0`)"
    assert teacher in page
    assert "in 4 network calls" in page
    assert "a student of 4 steps, and of no other number" in page


def test_a_converted_teacher_was_not_trained_here(tmp_path):
    facts = {"origin": "org/ddpm", "phase": 0}
    model = pipelines.make(num_steps=8, **facts)
    text = (pipelines.export(tmp_path, model) / "README.md").read_text()
    assert "\n# org/ddpm, 8x8 grey, in 8 network calls\n" in text
    assert "Converted from `org/ddpm` by progdist" in text
    assert provenance.code() in text
    assert "Any divisor of 1,000 may be the number of steps." in text
    assert "the noise schedule is that of `scheduler/`." in text
    assert "license" not in text.split("---\n", 2)[1]
    assert "num_inference_steps=8" in text


@pytest.mark.parametrize("name", ["small", "classes"])
def test_the_page_has_code_for_classes_only_where_there_are_any(name, tmp_path):
    model = pipelines.make(NETS[name])
    code = code_of(pipelines.export(tmp_path, model))
    compile(code, "README.md", "exec")
    assert ("class_labels=" in code) == (name == "classes")
    assert ("num_inference_steps=4" in code) == (name == "small")
    assert "use_clipped_model_output=True" in code


# --- what diffusers cannot hold

OURS = UNetConfig(ch=8, emb_ch=16, ch_mult=(1,), num_res_blocks=1)
ZERO = dataclasses.replace(SMALL, timesteps=Timesteps(zero_terminal_snr=True))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"net": OURS, "schedule": "cosine"}, "diffusers lacks this network, progdi"),
        ({"output": "both"}, "output is both, not one of eps, v, x"),
        ({"schedule": "cosine"}, "schedule is cosine, not its network's timesteps"),
        ({"num_steps": 3}, "num_steps=3 does not divide the 1,000 timesteps"),
        ({"net": ZERO}, "eps fixes no image at a terminal SNR of zero"),
    ],
)
def test_other_models_are_refused(facts, message):
    with pytest.raises(UsageError, match=r"^--formats=diffusers: ") as refused:
        diffusers.check(pipelines.make(**facts))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    path = pipelines.save(tmp_path / "model", num_steps=3)
    flags = [str(path), f"--out={tmp_path / 'out'}", "--formats=diffusers"]
    code, error = answer(export, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.startswith("progdist: --formats=diffusers: num_steps=3 does not")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_it_is_written_only_where_it_is_named():
    assert "diffusers" not in export.define_flags().parse(["x"], "", *())["formats"]
    assert "diffusers" in export.NAMED_FORMATS


def test_it_needs_neither_torch_nor_diffusers(tmp_path, monkeypatch):
    for name in ("torch", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert pipelines.export(tmp_path, pipelines.make_case("eps")).is_dir()
