"""The feature networks by name: functions from uint8 images to features.

inception: the network of the FID with pytorch-fid's resizing; only its distance is
called FID. inception_tf1: the same network and weights with TensorFlow 1's resizing, as
in torch-fidelity. squeezenet: SqueezeNet v1.1, which needs no download.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt8

from progdist.checkpoint import weights
from progdist.config import FeatureNetwork as Name
from progdist.evaluate.features import download, inception, squeezenet
from progdist.evaluate.features.layers import Features


class Network(NamedTuple):
    """A feature network with its weights.

    Attributes:
      name: one of `Name`.
      params: first argument of `apply`.
      apply: (params, uint8 images, grey or RGB) -> Features.
      digest: SHA-256 of the weight file.
      suffix: suffix of its metric names.
      frechet: name of the Fréchet distance between its features.
    """

    name: Name
    params: Any
    apply: Callable[[Any, UInt8[Array, "b h w c"]], Features]
    digest: str
    suffix: str
    frechet: str = "FD"


def open_network(name: Name, inception_weights: str = "") -> Network:
    """Returns the network with its weights.

    Args:
      name: one of `Name`.
      inception_weights: file of the Inception weights; "" downloads it.

    Raises:
      WeightsError: if they are missing or have the wrong content.
      ValueError: if `name` is not one of `Name`.
    """
    match name:
        case "inception" | "inception_tf1":
            path = download.inception_file(inception_weights)
            net = inception.from_arrays(weights.read_torch(path))
            return inception_network(net, name, download.INCEPTION.sha256)
        case "squeezenet":
            params = jax.tree.map(jnp.asarray, squeezenet.open_weights())
            apply, digest = squeezenet.apply, squeezenet.SHA256
            return Network(name, params, apply, digest, "-squeezenet")
    raise ValueError(f"features: {name!r} is not one of {get_args(Name)}")


def inception_network(
    net: inception.Inception,
    name: Literal["inception", "inception_tf1"] = "inception",
    digest: str = "",
) -> Network:
    """Returns the network with these weights."""
    resize, suffix = (
        ("pytorch-fid", "") if name == "inception" else ("torch-fidelity", "-tf1")
    )
    params = jax.tree.map(jnp.asarray, net)
    apply = functools.partial(inception.apply, how=resize)
    return Network(name, params, apply, digest, suffix, "FID")
