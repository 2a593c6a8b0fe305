"""The paper's CIFAR-10 models: downloads, checkpoints, evaluation, table.

A server on loopback holds small files in the formats and under the names of the real
ones, whose digests are replaced.
"""

import base64
import hashlib
import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import pytest

import progdist
from progdist import checkpoint
from progdist.commands import devices, evaluate, reproduce
from progdist.config import load_preset, plan_of
from progdist.data import cifar10
from progdist.data.download import Remote
from progdist.errors import exit_with
from progdist.evaluate import released, reproduction
from progdist.evaluate.features import download, networks
from progdist.model import param_shapes
from progdist.preflight import make_model
from progdist.workdir.rows import EvalRow, read_rows
from tests import feature_weights, originals
from tests.server import serving

# CIFAR-10 with the network of the smoke variant, and students of 2 steps and 1.
CONFIG = """
from progdist.config import load_preset

def get_config():
    config = load_preset("cifar10")
    config.net = config.net.smoke(config.data.image_shape)
    config.distill.start_steps = 4
    config.evaluation.num_samples = config.evaluation.batch_size = 4
    return config
"""
BUCKET = "/storage.googleapis.com/gresearch/diffusion-distillation"
LISTING = "/storage.googleapis.com/storage/v1/b/gresearch/o"


def msgpack(config, seed, **fields):
    """A train state in the layout of the released ones: norms with axes of size 1."""
    rng = np.random.default_rng(seed)
    leaves = flax.traverse_util.flatten_dict(param_shapes(make_model(config)))
    for path, leaf in leaves.items():
        is_norm = path[-2].startswith("norm")
        shape = (1, 1, 1, *leaf.shape) if is_norm else leaf.shape
        leaves[path] = rng.normal(scale=0.1, size=shape).astype(np.float32)
    tree = flax.traverse_util.unflatten_dict(leaves)
    state = {"step": 1, "optimizer": None, "ema_params": tree} | fields
    return flax.serialization.msgpack_serialize(state)


def remote(url, content):
    return Remote(url, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def site(config, tmp_path, monkeypatch):
    """A mirror with CIFAR-10 and three checkpoints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    archive = tmp_path / "archive"
    originals.write_cifar10(archive)
    content = archive.read_bytes()
    monkeypatch.setattr(cifar10, "ARCHIVE", remote(cifar10.ARCHIVE.url, content))
    tiny = progdist.config.presets.load_config(str(config))
    with serving() as server:
        monkeypatch.setenv("PROGDIST_MIRROR", server.url)
        server.put("/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", content)
        files = {
            "cifar_original": msgpack(tiny, 0, num_sample_steps=0),
            "cifar_2": msgpack(tiny, 1, num_sample_steps=2),
            "cifar_1": msgpack(tiny, 2, num_sample_steps=1),
        }
        release(server, files)
        yield server


def release(server, files):
    items = []
    for name, content in files.items():
        server.put(f"{BUCKET}/{name}", content)
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        name = f"diffusion-distillation/{name}"
        items.append({"name": name, "size": str(len(content)), "md5Hash": md5})
    server.put(LISTING, json.dumps({"kind": "storage#objects", "items": items}).encode())


def torch_file(arrays):
    """A state dictionary as torch.save writes it."""
    module = types.ModuleType("torch")
    utils = types.ModuleType("torch._utils")
    module._utils = utils
    kinds = {}
    for name in ("FloatStorage",):
        kinds[name] = type(name, (), {"__module__": "torch"})
        setattr(module, name, kinds[name])

    def _rebuild_tensor_v2(*_):
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2


    class Storage:
        def __init__(self, key, count):
            self.key, self.count = key, count

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            strides = tuple(s // self.array.itemsize for s in self.array.strides)
            storage = Storage(self.key, self.array.size)
            args = storage, 0, self.array.shape, strides, False, None
            return _rebuild_tensor_v2, args

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return "storage", kinds["FloatStorage"], obj.key, "cpu", obj.count
            return None

    buffer, text = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", module)
        patch.setitem(sys.modules, "torch._utils", utils)
        tensors = {n: Tensor(str(i), a) for i, (n, a) in enumerate(arrays.items())}
        Pickler(text, 2).dump(tensors)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights/data.pkl", text.getvalue())
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"weights/data/{i}", np.ascontiguousarray(array).tobytes())
    return buffer.getvalue()


def run(*words):
    try:
        exit_with(reproduce.main, ["progdist reproduce", *map(str, words)])
    except SystemExit as ended:
        return ended.code or 0
    return 0


def test_e2e(site, config, tmp_path, monkeypatch, capsys):
    import time
    t=time.time()
    weights = torch_file(feature_weights.inception_arrays())
    inception = remote(download.INCEPTION.url, weights)
    monkeypatch.setattr(download, "INCEPTION", inception)
    site.put("/" + inception.url.partition("://")[2], weights)
    print(time.time()-t)
    workdir = tmp_path / "paper"
    words = [workdir, f"--config={config}", "--steps=1,2,4"]
    assert run(*words, "--dry_run") == 0
    print(time.time()-t)
    assert run(*words) == 0
    print(time.time()-t)
    out, err = capsys.readouterr()
    sys.__stderr__.write(out + err)
    assert run(*words) == 0
    out, err = capsys.readouterr()
    sys.__stderr__.write(out + err)
    sys.__stderr__.write("\n".join(site.requests))
    sys.__stderr__.write("\n".join(map(str, sorted(tmp_path.rglob("*")))))
