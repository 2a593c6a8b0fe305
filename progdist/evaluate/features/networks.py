"""The feature networks by name: functions from uint8 images to features.

inception: the FID's, with pytorch-fid's resizing; its distance alone is called FID.
inception_tf1: the same network and weights with TensorFlow 1's, as torch-fidelity has
it. squeezenet: SqueezeNet v1.1, which needs no download. Grey images are given to them
as RGB.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from progdist.evaluate.features import download, inception, squeezenet, weights

Name = Literal["inception", "inception_tf1", "squeezenet"]


class Features(NamedTuple):
    """Features of images, and the scores of the classes that the network knows."""

    features: Float[Array, "b d"]
    logits: Float[Array, "b k"]


class Network(NamedTuple):
    """A function of images, and the parameters that go with it.

    Attributes:
      name: one of `Name`.
      params: what `apply` takes first.
      apply: (params, uint8 images) -> Features.
      digest: SHA-256 of the file of weights.
    """

    name: Name
    params: Any
    apply: Callable[[Any, UInt8[Array, "b h w c"]], Features]
    digest: str


def open_network(name: Name, inception_weights: str = "") -> Network:
    """Returns the network, its weights read.

    Args:
      name: one of `Name`.
      inception_weights: a file with the Inception's; "" downloads it.

    Raises:
      WeightsError: if they are missing, or not the known ones.
      ValueError: if `name` is not one of `Name`.
    """
    match name:
        case "inception" | "inception_tf1":
            path = download.inception_file(inception_weights)
            arrays = weights.read_torch(path)
            return from_inception(inception.from_arrays(arrays), name, download.SHA256)
        case "squeezenet":
            params = jax.tree.map(jnp.asarray, squeezenet.open_weights())
            return Network(name, params, _squeezenet, squeezenet.SHA256)
    raise ValueError(f"features: {name!r} is not one of {get_args(Name)}")


def from_inception(
    net: inception.Inception,
    name: Literal["inception", "inception_tf1"] = "inception",
    digest: str = "",
) -> Network:
    """Returns the network with given parameters."""
    how = "pytorch-fid" if name == "inception" else "torch-fidelity"
    params = jax.tree.map(jnp.asarray, net)
    return Network(name, params, functools.partial(_inception, how), digest)


def _inception(how: inception.Resize, params: Any, images: Any) -> Features:
    return Features(*inception.apply(params, _rgb(images), how))


def _squeezenet(params: Any, images: Any) -> Features:
    return Features(*squeezenet.apply(params, _rgb(images)))


def _rgb(images: UInt8[Array, "b h w c"]) -> UInt8[Array, "b h w 3"]:
    return jnp.broadcast_to(images, (*images.shape[:3], 3))
