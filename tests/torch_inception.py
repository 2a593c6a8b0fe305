"""What PyTorch's own FID networks make of the random weights.

    python -m tests.torch_inception tests/golden

Needs torch and torch-fidelity, and JAX (which the package imports), not torchvision:
torch-fidelity's network has all its blocks itself. It serves for pytorch-fid's too,
with the resizing of that one's `InceptionV3.forward`: they differ in nothing else.
"""

import importlib.util
import sys
import tempfile
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from tests import feature_weights


def state_dict(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def network(path: Path) -> Any:
    """torch-fidelity's network with the weights of a file."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    return theirs.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], str(path)
    )


def outputs(net: Any, images: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    resize = theirs.interpolate_bilinear_2d_like_tensorflow1x

    def half_pixel(x: Any, size: tuple[int, int], align_corners: bool) -> Any:
        # As pytorch-fid: resized in [0, 1], then 2 x - 1; forward undoes the rest.
        x = torch.nn.functional.interpolate(x / 255, size, mode="bilinear")
        return (2 * x - 1) * 128 + 128

    if how == "pytorch-fid":
        theirs.interpolate_bilinear_2d_like_tensorflow1x = half_pixel
    try:
        with torch.no_grad():
            x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            features, logits = net(x)
    finally:
        theirs.interpolate_bilinear_2d_like_tensorflow1x = resize
    return features.numpy(), logits.numpy()


def skip_package_imports(name: str = "torch_fidelity") -> None:
    """Lets a module of the package be imported without all the package imports."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name)
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules[name] = package


def write_small_files(folder: Path) -> None:
    """The same small state dictionary in both of PyTorch's formats."""
    import torch

    base = torch.arange(24, dtype=torch.float32)
    state = OrderedDict(
        whole=base.reshape(2, 3, 4),
        turned=base.reshape(4, 6).T,
        part=base[5:11],
        parameter=torch.nn.Parameter(torch.full((3,), 0.5)),
        count=torch.tensor(7),
        half=torch.ones(2, dtype=torch.float16),
    )
    torch.save(state, folder / "torch_zip.pth")
    torch.save(state, folder / "torch_legacy.pth", _use_new_zipfile_serialization=False)


def main(folder: Path) -> None:
    import torch

    skip_package_imports()
    write_small_files(folder)
    arrays = feature_weights.inception_arrays()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "weights.pth"
        torch.save(state_dict(arrays), path)
        net = network(path)
    found = {}
    for how in ("pytorch-fid", "torch-fidelity"):
        for size, images in feature_weights.two_sizes().items():
            features, logits = outputs(net, images, how)
            found[f"{how} {size} features"] = features
            found[f"{how} {size} logits"] = logits
    np.savez_compressed(folder / "inception.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
