"""`progdist convert`: what it accepts, what it says, and what it leaves behind."""

import errno

import pytest

import progdist
from progdist import teachers
from progdist.checkpoint import digests
from progdist.commands import convert, sample
from progdist.errors import InputError, UsageError
from progdist.teachers import Options, read_teacher
from tests import commands, converting, diffusers_models as models, hostile_files
from tests.diffusers_pipelines import save


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small pipeline of diffusers."""
    path = tmp_path_factory.mktemp("from") / "ddpm"
    return models.write_random(path, models.TINY, models.scheduler_config("linear"))[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model directory of progdist."""
    return save(tmp_path_factory.mktemp("own") / "model")


def test_a_failed_write_leaves_nothing(pipeline, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    words = str(pipeline), f"--out={out}"

    def fail(path):
        assert any(path.iterdir())
        raise OSError(errno.EFBIG, "File too large", str(path / "manifest"))

    monkeypatch.setattr(digests, "write_manifest", fail)
    code, said = commands.answer(
        convert, *words, capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 4, said
    assert said.startswith(f"progdist: {out}: could not be written")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_converted_model_may_be_moved(pipeline, tmp_path, monkeypatch):
    out = tmp_path / "deep" / "er" / "out"
    model = converting.converted(pipeline, out, {}, monkeypatch)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    out.rename(tmp_path / "moved")
    again = progdist.load(tmp_path / "moved")
    assert again.digest == model.digest


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"image_size": 32}, "--image_size: does not apply; "),
        ({"attention_order": "legacy"}, "--attention_order: does not apply; "),
        ({"rescale_timesteps": False}, "--norescale_timesteps: does not apply; "),
        ({"output": "both"}, "--output=both: must be eps, x or v for a network of d"),
    ],
)
def test_flags_that_do_not_apply_to_diffusers(facts, message, pipeline):
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        read_teacher(pipeline, Options(**facts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", Options._fields)
def test_no_flag_applies_to_a_model_of_progdist(name, own):
    with pytest.raises(UsageError, match=f"^--{name}: does not apply; .* with a card"):
        read_teacher(own, Options(**{name: 1}))


@pytest.mark.parametrize("facts", [{"betas": "linear"}, {"num_heads": 1}])
def test_flags_that_do_not_apply_to_a_released_file(facts, tmp_path):
    hostile_files.flax_file(hostile_files.CONV)(tmp_path / "cifar")
    with pytest.raises(UsageError, match=f"^--{next(iter(facts))}: does not apply"):
        read_teacher(tmp_path / "cifar", Options(**facts))


def test_flags_override_a_scheduler(pipeline):
    card = read_teacher(pipeline, Options(output="v", betas="squaredcos_cap_v2")).card
    assert card["output"] == "v"
    assert card["net"]["timesteps"]["betas"] == "squaredcos_cap_v2"


def test_the_origin_is_a_name_or_an_address(pipeline, own, monkeypatch):
    assert read_teacher(pipeline).card["origin"] == "ddpm"
    monkeypatch.chdir(pipeline)
    assert read_teacher(".").card["origin"] == "ddpm"
    monkeypatch.setattr(teachers.source.hub, "download", lambda *_: pipeline)
    address = "hf://org/ddpm@v1"
    assert read_teacher(address).card["origin"] == address
    assert "origin" not in read_teacher(own).card


PICKLE = "is a pickle, which can hold code; accepted are .pt and .pth files"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edm.pkl", PICKLE),
        ("model.ckpt", PICKLE),
        ("pytorch_model.bin", PICKLE),
        ("diffusion_pytorch_model.bin", "is of diffusers; pass the folder that holds"),
        ("diffusion_pytorch_model.safetensors", "is of diffusers; pass the folder th"),
    ],
)
def test_other_files_are_named_for_what_they_are(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        read_teacher(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert not teachers.is_released(tmp_path / name)


def test_another_folder_is_said_to_be_neither(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError) as caught:
        read_teacher(tmp_path)
    said = f"{tmp_path}: is neither a folder of diffusers nor a model of progdist"
    assert str(caught.value) == said


def export_of(folder):
    """An export that holds diffusers/ alone."""
    (folder / "diffusers").mkdir()
    (folder / "diffusers" / "model_index.json").write_text("{}")
    return folder


def test_sample_says_how_to_convert(pipeline, tmp_path, capsys, monkeypatch):
    for source, place, kind in (
        (pipeline, pipeline, "pipeline"),
        (pipeline / "unet", pipeline / "unet", "network"),
        (export_of(tmp_path), tmp_path / "diffusers", "pipeline"),
    ):
        words = str(source), f"--out={tmp_path / 'a.png'}"
        answer = commands.answer(sample, *words, capsys=capsys, monkeypatch=monkeypatch)
        assert answer == (
            2,
            f"progdist: {place}: is a {kind} of diffusers; convert it first: progdist "
            f"convert {place} --out=DIR\n",
        )


def test_the_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        convert.main(["progdist convert", "--help"])
    said = capsys.readouterr().out
    for name in (
        *("UNet2DModel", "hf://OWNER/NAME[@REVISION]", "guided-diffusion"),
        *("improved-diffusion", "consistency_models", "released with the paper"),
        *("a model of progdist", "progdist export", "--config.teacher"),
    ):
        assert name in said
    assert "evaluate" not in said
    assert "trained" not in said.partition("--betas")[2].partition("--")[0]
