"""A round of a run as files: what they draw, and that they need nothing of ours."""

import copy
import functools
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.numpy

import progdist
from progdist import checkpoint, preflight
from progdist.checkpoint import digests
from progdist.commands import export
from progdist.config import ConfigError, load_preset, to_json
from progdist.diffusion import samplers
from progdist.export import formats, write as export_write
from progdist.model import bind, param_shapes
from progdist.nets.conditioning import Conditioning
from progdist.preflight import make_model
from progdist.workdir import layout, provenance
from tests import tiny
from tests.commands import answer

ROOT = Path(__file__).parents[1]
SIZES = 1, 3, 8

# Reads and runs a sampler where neither this package nor flax can be imported.
STRANGER = """
import json, sys, zipfile
sys.modules["progdist"] = sys.modules["flax"] = None
import jax, numpy as np
with zipfile.ZipFile(sys.argv[1]) as archive:
    card = json.loads(archive.read("card.json"))
    exported = jax.export.deserialize(bytearray(archive.read("exported")))
with np.load(sys.argv[2]) as given:
    inputs = [given[name] for name in given.files]
sizes = json.loads(sys.argv[3])
images = {str(n): np.asarray(exported.call(*(x[:n] for x in inputs))) for n in sizes}
np.savez(sys.argv[4], **images)
print(json.dumps([card, exported.platforms]))
"""


class Case:
    """A run of one made round, its export, and what it should draw."""

    def __init__(self, name, num_steps, path):
        self.config = load_preset(name, "smoke")
        self.model, self.num_steps = make_model(self.config), num_steps
        self.workdir, self.out = path / "run", path / "exported" / "sampler"
        self.path = checkpoint.model_dir(self.workdir, 1, num_steps)
        self.params = self._make_run()
        rng = np.random.default_rng(1)
        noise = rng.standard_normal((max(SIZES), *self.model.image_shape), np.float32)
        label = rng.integers(0, self.model.num_classes or 1, max(SIZES), np.int32)
        conditional = self.model.num_classes > 0
        self.inputs = {"noise": noise} | ({"label": label} if conditional else {})
        denoise = functools.partial(
            bind(self.model, self.params), conditioning=Conditioning(jnp.array(label))
        )
        draw = jax.jit(
            lambda z_1: samplers.sample(
                denoise, self.model.schedule, z_1, num_steps=num_steps
            )
        )
        self.images = np.asarray(draw(noise))

    def _make_run(self):
        """Parameters that are not 0 anywhere, as a round and its configuration."""
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x: jnp.float32(0.1 * rng.standard_normal(x.shape)),
            param_shapes(self.model),
        )
        self.workdir.mkdir(parents=True)
        (self.workdir / "config.json").write_text(to_json(self.config))
        config = self.config
        facts = {
            "phase": 1,
            "output": config.parameterization,
            "schedule": config.schedule,
        }
        checkpoint.save_model(self.path, params, facts | {"num_steps": self.num_steps})
        return jax.tree.map(np.asarray, params)

    def check(self, card):
        """The card says what is drawn, and what made it."""
        config = self.config
        assert card["num_steps"] == self.num_steps
        assert card["schedule"] == config.schedule
        assert card["output"] == config.parameterization
        assert card["image_shape"] == list(config.data.image_shape)
        assert card["num_classes"] == config.net.num_classes
        assert card["params"] == checkpoint.fingerprint_of(self.params)[:16]
        assert card["exported_by"] == provenance.code()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network without classes."""
    return Case("digits", 4, tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module", params=["digits", "imagenet64"])
def case(request, small, tmp_path_factory):
    """What the command wrote; and a network with classes, and two levels."""
    if request.param == "imagenet64":
        case = Case("imagenet64", 2, tmp_path_factory.mktemp("imagenet64"))
        write(case, case.out, *export.FORMATS)
        return case
    command = [sys.executable, "-m", "progdist.export", f"--workdir={small.workdir}"]
    command += ["--num_steps=4", f"--out={small.out}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "the images of JAX and ONNX differ by at most" in done.stdout
    return small


def write(case, out, *names):
    return export_write.write(progdist.load(case.path), out, names)


def test_only_what_was_asked_for_is_left(case):
    names = {path.name for path in case.out.iterdir()}
    assert names == set(layout.EXPORTS) - {layout.DIFFUSERS}
    assert [path.name for path in case.out.parent.iterdir()] == [case.out.name]


def test_a_stranger_draws_the_same_images_in_any_number(case, tmp_path):
    sizes = SIZES if case.num_steps == 4 else SIZES[1:2]  # each is a compilation
    np.savez(tmp_path / "inputs.npz", **case.inputs)
    words = [case.out / layout.JAX_SAMPLER, tmp_path / "inputs.npz"]
    words += [json.dumps(sizes), tmp_path / "images.npz"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    card, platforms = json.loads(done.stdout)
    case.check(card)
    assert set(platforms) == {"cpu", "cuda", "tpu"}
    with np.load(tmp_path / "images.npz") as images:
        for size in sizes:
            found, wanted = images[str(size)], case.images[:size]
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_onnxruntime_draws_the_same_images_in_any_number(case):
    path = case.out / layout.ONNX_SAMPLER
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_outputs()] == ["images"]
    for size in SIZES:
        inputs = {name: values[:size] for name, values in case.inputs.items()}
        (found,) = session.run(None, inputs)
        # Parameters at random make for a rougher network than training does.
        np.testing.assert_allclose(found, case.images[:size], atol=3e-4)
        same = as_bytes(found) == as_bytes(case.images[:size])
        assert same.mean() > 0.98
    case.check(read_notes(session.get_modelmeta().custom_metadata_map))


def as_bytes(images):
    return np.round((images + 1) * 127.5).astype(np.uint8)


def read_notes(notes):
    """A card from its strings."""
    numbers = "num_steps", "num_classes", "image_shape"
    return notes | {name: json.loads(notes[name]) for name in numbers}


def test_the_program_is_one_for_all_platforms_and_names_no_files(case):
    with zipfile.ZipFile(case.out / layout.JAX_SAMPLER) as archive:
        exported = archive.read("exported")
    assert b".py" not in exported
    module = jax.export.deserialize(bytearray(exported)).mlir_module()
    assert "stablehlo.convolution" in module
    assert "optimization_barrier" not in module
    assert b".py" not in (case.out / layout.ONNX_SAMPLER).read_bytes()


def test_the_parameters_are_bit_equal_under_their_names(case):
    path = case.out / layout.PARAMS
    found = safetensors.numpy.load_file(path)
    wanted = digests.leaves_of(case.params)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf)
    with safetensors.safe_open(path, "numpy") as file:
        case.check(read_notes(file.metadata()))


def test_the_parameters_are_a_teacher(case, monkeypatch):
    monkeypatch.setattr(case, "config", copy.deepcopy(case.config))
    case.config.teacher = str(case.out / layout.PARAMS)
    case.config.distill.start_steps = case.num_steps
    preflight.check_teacher(case.config, case.model)
    template = jax.tree.map(jnp.zeros_like, case.params)
    loaded = checkpoint.load_model(Path(case.config.teacher), template)
    jax.tree.map(np.testing.assert_array_equal, loaded, case.params)
    case.config.schedule = "linear"
    with pytest.raises(ConfigError, match="its schedule is 'cosine'"):
        preflight.check_teacher(case.config, make_model(case.config))


def test_other_files_are_no_teacher(tmp_path):
    path = tmp_path / "teacher.safetensors"
    with pytest.raises(checkpoint.CheckpointError, match="holds no model"):
        checkpoint.load_model(path, tiny.params())
    for content in (b"", b"hello, world"):
        path.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match="not a safetensors file"):
            checkpoint.load_model(path, tiny.params())
    safetensors.numpy.save_file({"Dense_0/kernel": np.zeros((2, 9), np.float32)}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"has shape none|\(2, 9\)"):
        checkpoint.load_model(path, tiny.params())


def test_the_same_sampler_is_the_same_bytes(small, tmp_path):
    files = []
    for name in ("a", "b"):
        write(small, tmp_path / name, "jax")
        files.append((tmp_path / name / layout.JAX_SAMPLER).read_bytes())
    assert files[0] == files[1]


def test_a_failure_leaves_nothing(small, tmp_path, monkeypatch):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(formats, "write_jax", fail)
    with pytest.raises(OSError, match="No space left"):
        write(small, tmp_path / "out", "jax", "safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("difference", [0.01, np.nan])
def test_samplers_that_draw_different_images_are_not_left(
    small, tmp_path, monkeypatch, difference
):
    for name in ("write_jax", "write_onnx"):
        monkeypatch.setattr(formats, name, lambda path, *_: path.touch())
    monkeypatch.setattr(formats, "largest_difference", lambda *_: difference)
    with pytest.raises(checkpoint.SaveError, match="out: not written, since"):
        write(small, tmp_path / "out", "jax", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=W", "--num_steps=4"], "--out is missing"),
        (["--workdir=W", "--num_steps=0", "--out=W/new"], "num_steps=0"),
        (
            ["--workdir=W/no", "--num_steps=4", "--out=W/new"],
            "no such file or directory",
        ),
        (["--workdir=W", "--num_steps=3", "--out=W/new"], "available steps: 4"),
        (["--workdir=W", "--num_steps=4", "--out=W"], "already exists; --overwrite"),
        (
            ["--workdir=W", "--num_steps=4", "--out=W", "--overwrite"],
            "holds config.json, which no export writes",
        ),
        (
            ["--workdir=W", "--num_steps=4", "--out=W/new", "--formats=tf"],
            "one of jax,",
        ),
        (["--workdir=W", "--num_steps=4", "--out=W/new", "--formats="], "at least one"),
        (
            ["--workdir=W", "--teacher", "--num_steps=4", "--out=W/new"],
            "the teacher: no",
        ),
    ],
)
def test_a_mistake_is_one_line_and_code_2(flags, message, small, capsys, monkeypatch):
    flags = [flag.replace("=W", f"={small.workdir}") for flag in flags]
    code, error = answer(export, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (small.workdir / "new").exists()


@pytest.mark.parametrize("package", ["flatbuffers", "jax2onnx", "safetensors"])
def test_a_missing_package_is_named_with_its_extra(
    package, small, tmp_path, capsys, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == package else find(n)
    )
    flags = [f"--workdir={small.workdir}", "--num_steps=4", f"--out={tmp_path / 'o'}"]
    code, error = answer(export, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert f"needs {package}; pip install 'progdist[export]'" in error


def test_parameters_that_a_file_cannot_hold_are_refused(
    small, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(formats, "MOST_BYTES", 1000)
    flags = [f"--workdir={small.workdir}", "--num_steps=4", f"--out={tmp_path / 'o'}"]
    code, error = answer(export, *flags, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "bytes of parameters; the files of jax and onnx hold at most 1,000" in error
    assert not list(tmp_path.iterdir())


def test_without_a_repository_the_version_stands_for_the_commit(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(provenance, "commit", lambda: None)
    provenance.code.cache_clear()
    write(small, tmp_path / "out", "safetensors")
    with safetensors.safe_open(tmp_path / "out" / layout.PARAMS, "np") as file:
        version = importlib.metadata.version("progdist")
        assert file.metadata()["exported_by"] == f"progdist {version}"
    provenance.code.cache_clear()
