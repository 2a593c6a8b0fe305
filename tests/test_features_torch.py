"""Against pytorch-fid and torch-fidelity themselves, with random weights.

Slow, and only where torch, torch-fidelity and pytorch-fid are installed. torchvision,
which pytorch-fid asks for, is stood in for by torch-fidelity's blocks, of which it
patches the same ones, and by a function that makes a tensor of an image.
"""

import importlib.util
import sys
import types
from typing import Any

import jax
import numpy as np
import pytest

from progdist.evaluate import metrics
from progdist.evaluate.features import inception
from progdist.report import save_png
from tests import feature_weights, torch_inception

torch = pytest.importorskip("torch")
for _package in ("torch_fidelity", "pytorch_fid"):
    # Not imported: that would import torchvision.
    if importlib.util.find_spec(_package) is None:
        pytest.skip(f"no {_package}", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
NUM = 12


@pytest.fixture(scope="module")
def arrays():
    return feature_weights.inception_arrays()


@pytest.fixture
def vision(monkeypatch):
    """An empty torchvision, whose names are all there."""
    modules = {}
    for name in (
        "",
        ".models",
        ".models.inception",
        ".transforms",
        ".transforms.functional",
        ".datasets",
    ):
        module: Any = types.ModuleType(f"torchvision{name}")
        module.__version__ = "0.20.0"
        modules[name] = module
        monkeypatch.setitem(sys.modules, module.__name__, module)
    top = modules[""]
    top.models, top.transforms = modules[".models"], modules[".transforms"]
    top.models.inception = modules[".models.inception"]
    top.transforms.functional = modules[".transforms.functional"]
    for data_set in ("CIFAR10", "CIFAR100", "STL10"):
        setattr(modules[".datasets"], data_set, object)
    torch_inception.skip_package_imports()
    return top


@pytest.fixture
def fid_score(arrays, vision, tmp_path, monkeypatch):
    """pytorch-fid's own program, its torchvision made of torch-fidelity's blocks."""
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    torch.save(torch_inception.state_dict(arrays), tmp_path / "weights.pth")

    def unpatched(**_):
        net = torch_inception.network(tmp_path / "weights.pth")
        for name in ("Mixed_6a", "Mixed_7a"):
            assert hasattr(net, name)
        return net

    def to_tensor():
        return lambda image: torch.from_numpy(
            np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255
        )

    vision.models.inception_v3 = unpatched
    vision.models.inception.InceptionA = blocks.InceptionA
    vision.models.inception.InceptionC = blocks.InceptionC
    vision.models.inception.InceptionE = blocks.InceptionE_1
    vision.transforms.ToTensor = to_tensor
    from pytorch_fid import fid_score, inception as theirs

    monkeypatch.setattr(
        theirs,
        "load_state_dict_from_url",
        lambda *_, **__: torch_inception.state_dict(arrays),
    )
    return fid_score


def test_written_files_have_the_same_distance_in_pytorch_fid(
    fid_score, arrays, tmp_path
):
    net, apply = inception.from_arrays(arrays), jax.jit(inception.apply)
    moments = []
    for name, seed in (("ours", 0), ("theirs", 5)):
        images = feature_weights.images(NUM, 32, 32, seed)
        for i, image in enumerate(images):
            save_png(tmp_path / name / f"{i:06}.png", image)
        running = metrics.Running()
        running.add(np.asarray(apply(net, images).features))
        moments.append(running.result())
    ours = metrics.frechet_distance(*moments)
    folders = [str(tmp_path / name) for name in ("ours", "theirs")]
    theirs = [
        fid_score.compute_statistics_of_path(
            folder, fid_score.InceptionV3([3]), 5, 2048, "cpu", 0
        )
        for folder in folders
    ]
    for (mean, covariance), (our_mean, our_covariance) in zip(
        theirs, moments, strict=True
    ):
        np.testing.assert_allclose(our_mean, mean, 1e-4, 1e-5)
        np.testing.assert_allclose(our_covariance, covariance, 1e-3, 1e-5)
    same = metrics.frechet_distance(*(metrics.Moments(*pair) for pair in theirs))
    assert ours == pytest.approx(same, rel=1e-4)


@pytest.mark.parametrize("how", ["pytorch-fid", "torch-fidelity"])
def test_the_network_is_torch_fidelitys(arrays, tmp_path, how):
    torch_inception.skip_package_imports()
    torch.save(torch_inception.state_dict(arrays), tmp_path / "weights.pth")
    theirs = torch_inception.network(tmp_path / "weights.pth")
    images = feature_weights.images(2, 64, 48, seed=9)
    features, logits = torch_inception.outputs(theirs, images, how)
    found = jax.jit(inception.apply, static_argnums=2)(
        inception.from_arrays(arrays), images, how
    )
    np.testing.assert_allclose(found.features, features, 1e-4, 1e-4)
    np.testing.assert_allclose(found.logits, logits, 1e-4, 1e-4)


def test_the_distances_are_torch_fidelitys(monkeypatch):
    torch_inception.skip_package_imports()
    # What reads images, and needs torchvision; the distances do not call it.
    reading: Any = types.ModuleType("torch_fidelity.utils")
    reading.__getattr__ = lambda name: None
    monkeypatch.setitem(sys.modules, reading.__name__, reading)
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (300, 20)).astype(np.float32)
    y = rng.normal(0.3, 1.2, (250, 20)).astype(np.float32)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    kid = metric_kid.kid_features_to_metric(
        a.double(), b.double(), kid_subset_size=100, kid_subsets=20, verbose=False
    )
    ours = metrics.kernel_distance(x, y, 20, 100)
    assert ours.mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)
    assert ours.std == pytest.approx(kid["kernel_inception_distance_std"], rel=1e-6)
    isc = metric_isc.isc_features_to_metric(a)
    scores = metrics.RunningScores(300, 20)
    scores.add(np.arange(300), x)
    assert scores.result()[0] == pytest.approx(isc["inception_score_mean"], rel=1e-6)
    pair = metric_prc.prc_features_to_metric(a.double(), b.double(), verbose=False)
    assert metrics.precision_recall(x, y) == pytest.approx(
        (pair["precision"], pair["recall"])
    )
    theirs = [metric_fid.fid_features_to_statistics(f.double()) for f in (a, b)]
    fid = metric_fid.fid_statistics_to_metric(*theirs, verbose=False)
    moments = []
    for features in (x, y):
        running = metrics.Running()
        running.add(features)
        moments.append(running.result())
    expected = fid["frechet_inception_distance"]
    assert metrics.frechet_distance(*moments) == pytest.approx(expected, rel=1e-6)
