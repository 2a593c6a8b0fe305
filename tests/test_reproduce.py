"""The paper's CIFAR-10 models: downloads, checkpoints, evaluation, table.

A server on loopback holds small files in the formats and under the names of the real
ones. Their digests count as the published ones.
"""

import base64
import hashlib
import json
import re
import shutil
from collections import Counter

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import pytest

import progdist
from progdist.commands import devices, reproduce
from progdist.config import Evaluation, load_preset
from progdist.config.presets import load_config
from progdist.data import cifar10
from progdist.data.download import Remote
from progdist.errors import exit_with
from progdist.evaluate import extraction, features, reproduction
from progdist.evaluate.features import download
from progdist.evaluate.features.layers import Features
from progdist.model import param_shapes
from progdist.preflight import make_model
from progdist.workdir.rows import EvalRow, Reference, read_rows
from tests import feature_weights, originals
from tests.server import serving

# CIFAR-10 with a small network, and students of 2 steps and of 1.
CONFIG = """
from progdist.config import load_preset

def get_config():
    config = load_preset("cifar10")
    config.net = config.net.smoke(config.data.image_shape)
    config.distill.start_steps = 4
    config.evaluation.num_samples = 4
    config.evaluation.batch_size = 11  # on one device, which compiles faster
    return config
"""
BUCKET = "/storage.googleapis.com/gresearch/diffusion-distillation"
LISTING = "/storage.googleapis.com/storage/v1/b/gresearch/o"
STEPS = {"cifar_original": 0, "cifar_2": 2, "cifar_1": 1}


def train_state(config, seed, num_steps):
    """A train state as released: normalisations have axes of size 1."""
    rng = np.random.default_rng(seed)
    leaves = flax.traverse_util.flatten_dict(param_shapes(make_model(config)))
    for path, leaf in leaves.items():
        shape = (1, 1, 1, *leaf.shape) if "norm" in path[-2] else leaf.shape
        leaves[path] = rng.normal(scale=0.1, size=shape).astype(np.float32)
    params = flax.traverse_util.unflatten_dict(leaves)
    state = {"step": 1, "optimizer": None, "ema_params": params}
    state["num_sample_steps"] = num_steps
    return flax.serialization.msgpack_serialize(state)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def checkpoints(config):
    tiny = load_config(str(config))
    return {name: train_state(tiny, n, n) for name, n in STEPS.items()}


@pytest.fixture
def site(checkpoints, tmp_path, monkeypatch):
    """A mirror with the archive and the checkpoints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    archive = tmp_path / "archive"
    originals.write_cifar10(archive)
    with serving() as server:
        monkeypatch.setenv("PROGDIST_MIRROR", server.url)
        publish(server, cifar10, "ARCHIVE", archive.read_bytes(), monkeypatch)
        publish(server, download, "INCEPTION", b"weights", monkeypatch)
        release(server, checkpoints)
        yield server


def publish(server, module, name, content, monkeypatch):
    url = getattr(module, name).url
    server.put("/" + url.partition("://")[2], content)
    remote = Remote(url, len(content), hashlib.sha256(content).hexdigest())
    for place in (module, reproduction):
        monkeypatch.setattr(place, name, remote, raising=False)


def release(server, files):
    """Puts the files into the bucket, and answers as Google Cloud Storage does."""
    items = []
    for name, content in files.items():
        server.put(f"{BUCKET}/{name}", content)
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        name, size = f"diffusion-distillation/{name}", str(len(content))
        items.append({"name": name, "size": size, "md5Hash": md5})
    server.put(LISTING, json.dumps({"items": items}).encode())


@pytest.fixture
def means(monkeypatch):
    """The colours' means in place of the FID's network, which takes a minute."""

    def apply(params, images):
        x = images.astype(np.float32).mean((1, 2)) * params
        return Features(x, x)

    def open_network(name, weights):
        download.inception_file(weights)
        params = jax.numpy.ones(())
        return features.Network(name, params, apply, "digest", "-tf1", "FID")

    monkeypatch.setattr(extraction.features, "open_network", open_network)


def run(capsys, *words):
    """Runs the command; returns its exit code, output and error."""
    code = 0
    try:
        exit_with(reproduce.main, ["progdist reproduce", *map(str, words)])
    except SystemExit as ended:
        code = ended.code or 0
    return code, *capsys.readouterr()


@pytest.fixture
def words(config, tmp_path):
    return tmp_path / "paper", f"--config={config}", "--steps=1,2"


def rows_of(workdir):
    return [(r["role"], r["num_steps"]) for r in read_rows(workdir / "eval.jsonl")]


def test_one_command_evaluates_the_released_models(
    site, means, words, checkpoints, capsys
):
    code, output, error = run(capsys, *words)
    assert (code, rows_of(words[0])) == (
        0,
        [("student", 1), ("student", 2), ("teacher", 1), ("teacher", 2)],
    )
    table = (words[0] / "reproduction.md").read_text()
    assert output.endswith(table)
    row = read_rows(words[0] / "eval.jsonl")[0]
    assert (row["metric"], row["features"]) == ("FID-tf1", "inception_tf1")
    value = f"{row['value']:.2f} | {row['value'] - 9.12:+.2f}"
    assert f"| distilled | 1 | 9.12 | {value} |\n" in table
    assert "| distilled | 4 | 3.00 | – | – |\n" in table
    assert "ancestral" not in table
    # The models are those of any run, and known to be the released ones.
    model = progdist.load(words[0], steps=2)
    leaves = flax.serialization.msgpack_restore(checkpoints["cifar_2"])["ema_params"]
    kernel = leaves["conv_in"]["kernel"]
    np.testing.assert_array_equal(model.params["conv_in"]["kernel"], kernel)
    assert model.card["origin"].endswith("/gresearch/diffusion-distillation/cifar_2")
    assert "cifar_2: SHA-256 " in error
    # Nothing is downloaded or computed twice.
    assert run(capsys, *words)[1].count("already evaluated") == 4
    assert max(Counter(site.requests).values()) == 1
    assert not list((words[0] / "downloads").iterdir())
    # To a run of one's own, here without its last model, nothing is added.
    (words[0] / "SHA256SUMS").unlink()
    shutil.rmtree(words[0] / "models" / "phase_02_steps_1")
    site.requests.clear()
    output = run(capsys, *words, "--curves=distilled")[1]
    assert (output.count("already evaluated"), site.requests) == (1, [])


def test_a_dry_run_lists_downloads_and_passes_and_writes_nothing(
    site, config, tmp_path, capsys
):
    words = f"--config={config}", "--curves=distilled,ancestral", "--gammas=0,1"
    code, output, error = run(
        capsys, tmp_path / "w", *words, "--steps=2", "--num=3", "--dry_run"
    )
    assert (code, error) == (0, "")
    lines = [line.split() for line in output.splitlines()]
    names = [line[-1].rpartition("/")[2] for line in lines[:-3]]
    assert names[:2] == ["cifar_original", "cifar_2"]
    assert names[2:] == [cifar10.ARCHIVE.name, download.INCEPTION.name]
    assert [line[-3] for line in lines[-3:]] == ["6"] * 3
    assert not (tmp_path / "w").exists()
    assert [path.partition("?")[0] for path in site.requests] == [LISTING]


def test_an_interrupted_command_resumes_with_what_is_missing(
    site, words, checkpoints, capsys
):
    site.put(f"{BUCKET}/cifar_1", b"", status=503)
    code, _, error = run(capsys, *words)
    assert (code, "cifar_1: HTTP 503 " in error.splitlines()[-1]) == (2, True)
    release(site, checkpoints)
    downloads = re.findall(
        r"(?m)^download .*/(.*)$", run(capsys, *words, "--dry_run")[1]
    )
    assert downloads == ["cifar_1"]


FAULTS = {
    "no listing": (lambda s, c: s.answers.pop(LISTING), r"o\?prefix=.*: HTTP 404 "),
    "no objects": (lambda s, c: release(s, {}), "gs://.*: holds no checkpoint of"),
    "a page": (lambda s, c: s.put(LISTING, b"<html>"), "not a listing of objects"),
    "other JSON": (
        lambda s, c: s.put(LISTING, b'{"items": [{"name": 3}]}'),
        "not a listing of objects",
    ),
    "truncated": (
        lambda s, c: release(s, {"cifar_1": c["cifar_1"][:-100]}),
        "cifar_1: not a flax msgpack file with ema_params",
    ),
    "of other steps": (
        lambda s, c: release(s, {"cifar_1": c["cifar_2"]}),
        "cifar_1: is a student of 2 steps, not of 1",
    ),
    "changed on the way": (
        lambda s, c: s.put(f"{BUCKET}/cifar_1", c["cifar_1"][::-1]),
        "cifar_1: its MD5 is .*, expected ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_saves_no_model(
    fault, site, words, checkpoints, capsys
):
    break_it, message = FAULTS[fault]
    release(site, {"cifar_1": checkpoints["cifar_1"]})
    break_it(site, checkpoints)
    code, output, error = run(capsys, *words)
    assert (code, output) == (2, "")
    assert re.search(f"^progdist: .*{message}.*$", error.splitlines()[-1])
    left = [path.name for path in words[0].rglob("*") if path.is_file()]
    assert left == ["lock"]


def test_another_file_of_the_same_name_is_refused_later(
    site, words, config, checkpoints, tmp_path, capsys
):
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "cifar_2").write_bytes(checkpoints["cifar_2"])
    (folder / "cifar_1").write_bytes(b"")  # ends the command before it evaluates
    flags = *words, "--curves=distilled", f"--checkpoints={folder}"
    assert run(capsys, *flags)[0] == 2
    shutil.rmtree(words[0] / "models")
    other = train_state(load_config(str(config)), 7, 2)
    (folder / "cifar_2").write_bytes(other)
    code, _, error = run(capsys, *flags)
    assert (code, "SHA256SUMS has " in error.splitlines()[-1]) == (2, True)
    assert (folder / "cifar_2").read_bytes() == other
    assert not list(words[0].glob("models/*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=digits"], "--config: its data is 'digits'; the paper's is 'cif"),
        (["--config=cifar10", "--gammas=0"], "--gammas: needs --curves=ancestral"),
        (["--config=cifar10", "--curves=ddpm"], "'ddpm' is not one of distilled, "),
        ([], "--config is missing"),
    ],
)
def test_a_mistake_is_one_line(flags, message, tmp_path, capsys):
    code, output, error = run(capsys, tmp_path / "w", *flags)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert message in error


def test_the_table_takes_the_best_gamma_and_a_students_own_steps():
    def row(role, sampler, n, value, gamma=None, trained=4, num=50_000):
        return EvalRow(
            **{"phase": 0, "role": role, "sampler": sampler, "num_steps": n},
            **{"trained_steps": trained, "gamma": gamma, "num_samples": num},
            **{"seed": 0, "metric": "FID-tf1", "value": value},
            reference=Reference(data="cifar10", split="train", count=50_000),
        )

    rows = [
        row("student", "ddim", 4, 3.1),
        row("student", "ddim", 8, 1.0),  # not its own number of steps
        row("student", "heun", 4, 1.0),
        row("student", "ddim", 4, 1.0, num=10_000),
        row("teacher", "ancestral", 64, 3.5, gamma=0.0),
        row("teacher", "ancestral", 64, 3.0, gamma=0.3),
        row("teacher", "ancestral", 8, 23.0, gamma=1.0),
    ]
    table = reproduction.comparison(rows, Evaluation(num_samples=50_000))
    assert "| distilled | 4 | 3.00 | 3.10 | +0.10 |\n" in table
    assert "| distilled | 8 | 2.57 | – | – |\n" in table
    line = "| original, ancestral | 64 | ≈3.05 | 3.00 (gamma 0.3) | -0.05 |\n"
    assert line in table
    assert "| original, ancestral | 8 | >20 | 23.00 (gamma 1) | – |\n" in table
    assert "ddim" not in table
    assert "fewer" not in table


def test_a_released_checkpoint_has_the_tree_of_the_preset():
    """Shapes of the released tree, from the description of the published network."""
    shapes = param_shapes(make_model(load_preset("cifar10")))
    tree = {name: set(block) for name, block in shapes.items()}
    block = {"norm1", "conv1", "temb_proj", "norm2", "conv2"}
    narrower = block | {"nin_shortcut"}
    attention = {"norm", "q", "k", "v", "proj_out"}
    affine = {"kernel", "bias"}
    expected = {"conv_in": affine, "dense0": affine, "dense1": affine}
    expected |= {"norm_out": {"scale", "bias"}, "conv_out": affine}
    for level in range(3):
        for i in range(3):
            expected[f"down_{level}.block_{i}"] = block
        for i in range(4):
            expected[f"up_{level}.block_{i}"] = narrower
        if level:  # at 16 and 8 pixels
            expected |= {f"down_{level}.attn_{i}": attention for i in range(3)}
            expected |= {f"up_{level}.attn_{i}": attention for i in range(4)}
            expected[f"up_{level}.upsample"] = block
            expected[f"down_{level - 1}.downsample"] = block
    expected |= {"mid.block_1": block, "mid.attn_1": attention, "mid.block_2": block}
    assert tree == expected
    assert shapes["conv_in"]["kernel"].shape == (3, 3, 3, 256)
    assert shapes["dense0"]["kernel"].shape == (256, 1024)
    assert shapes["conv_out"]["kernel"].shape == (3, 3, 256, 3)
    up = shapes["up_0.block_0"]
    assert up["conv1"]["kernel"].shape == (3, 3, 512, 256)
    assert up["nin_shortcut"]["kernel"].shape == (512, 256)
    assert up["temb_proj"]["kernel"].shape == (1024, 512)
    assert shapes["mid.attn_1"]["q"]["kernel"].shape == (256, 1, 256)
    assert shapes["mid.attn_1"]["proj_out"]["kernel"].shape == (1, 256, 256)


@pytest.mark.slow
def test_the_fid_is_that_of_the_fids_network(site, words, monkeypatch, capsys):
    weights = feature_weights.torch_file(feature_weights.inception_arrays())
    publish(site, download, "INCEPTION", weights, monkeypatch)
    assert run(capsys, *words)[0] == 0
    rows = read_rows(words[0] / "eval.jsonl")
    digest = download.INCEPTION.sha256[:16]
    assert {(r["metric"], r["weights"]) for r in rows} == {("FID-tf1", digest)}
