"""Draws images, one key an image, and measures how far they are from the data."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from progdist import data, parallel
from progdist.denoiser import bind
from progdist.diffusion import samplers
from progdist.diffusion.prediction import Target
from progdist.diffusion.schedules import Schedule
from progdist.state import Params

MOST_PIXELS = 32  # a side; 3,072 features in colour
SamplerName = Literal["ddim", "ancestral"]
Sampler = Callable[[Params, Key[Array, ""], Array, Array], Array]


class Moments(NamedTuple):
    """Mean and covariance of features, in float64."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


def image_noise(
    key: Key[Array, ""], indices: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b *d"]:
    """Returns z_1 of the images: that of image i depends on the key and i alone."""
    keys = _image_keys(key, indices, 0)
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)


def make_sampler(
    net: nn.Module,
    output: Target,
    schedule: Schedule,
    image_shape: tuple[int, ...],
    num_classes: int,
    mesh: Mesh,
    name: SamplerName = "ddim",
    gamma: float = 0.0,
) -> Sampler:
    """Returns the compiled (params, key, indices, num_steps) -> images in [-1, 1].

    One compilation serves every number of steps. Indices are split over the devices;
    image i of a conditional network has the class i modulo the number of classes.

    Raises:
      ValueError: if `name` is not one of `SamplerName`.
    """
    make_step = _step_maker(name, gamma)

    def draw(
        params: Params,
        key: Key[Array, ""],
        indices: Int[Array, " b"],
        num_steps: Int[Array, ""],
    ) -> Float[Array, "b *d"]:
        label = indices % num_classes if num_classes else None
        step = make_step(_image_keys(key, indices, 1))
        z_1 = image_noise(key, indices, image_shape)
        denoise = bind(net, params, output, label)
        return samplers.sample(denoise, schedule, z_1, num_steps, step)

    return parallel.pmap(draw, mesh, (None, None, 0, None), 0)


def draw_images(
    sampler: Sampler,
    params: Params,
    seed: int,
    num_images: int,
    num_steps: int,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yields images 0 … num_images - 1 in batches, as bytes.

    Every batch is computed at its full size, so an image does not depend on how many
    are asked for. Every process receives all of them.
    """
    key, steps = parallel.replicate((jax.random.key(seed), jnp.int32(num_steps)), mesh)
    rows = parallel.local_rows(batch_size)
    for first in range(0, num_images, batch_size):
        indices = np.arange(first, first + batch_size, dtype=np.int32)[rows]
        images = sampler(params, key, parallel.shard(indices, mesh), steps)
        yield data.to_uint8(parallel.gather(images))[: num_images - first]


def draw_trajectory(
    net: nn.Module,
    params: Params,
    output: Target,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    num_steps: int,
    label: Int[Array, " b"] | None = None,
) -> Float[np.ndarray, "states b *d"]:
    """Returns the DDIM states z_t from the noise to the image, t = 1 first.

    Computed by each process for itself, on one device.
    """

    @jax.jit
    def states(
        params: Params, z_1: Float[Array, "b *d"]
    ) -> Float[Array, "states b *d"]:
        denoise = bind(net, params, output, label)
        return samplers.trajectory(denoise, schedule, z_1, num_steps).z

    return np.asarray(states(jax.tree.map(np.asarray, params), z_1))


def pixel_moments(
    batches: Iterable[UInt8[np.ndarray, "b h w c"]], most_pixels: int = MOST_PIXELS
) -> Moments:
    """Returns the moments of images as vectors of pixels in [-1, 1].

    Images larger than `most_pixels` a side are first averaged over squares, as their
    covariance would not fit into memory.
    """
    count, total, squares = 0, 0.0, 0.0
    for images in batches:
        x = _shrink(images, most_pixels).reshape(len(images), -1) / 127.5 - 1.0
        count += len(x)
        total = total + x.sum(0)
        squares = squares + x.T @ x
    mean = np.asarray(total) / count
    covariance = (squares - count * np.outer(mean, mean)) / (count - 1)
    return Moments(mean, covariance)


def metric_name(image_shape: tuple[int, ...], most_pixels: int = MOST_PIXELS) -> str:
    """Returns the name of the distance between `pixel_moments`, by its features."""
    square = _square(image_shape, most_pixels)
    side = max(image_shape[:2]) // square
    return "FD-pixels" if square == 1 else f"FD-pixels{side}"


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) (Dowson & Landau 1982).

    The trace of the root is the sum of the roots of the eigenvalues of
    C_a^½ C_b C_a^½, which is symmetric where C_a C_b is not.
    """
    values, vectors = scipy.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = scipy.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance)
    cross = 2.0 * np.sqrt(np.maximum(inner, 0.0)).sum()
    return float(np.sum((a.mean - b.mean) ** 2) + trace - cross)


def source_moments(source: data.Source, limit: int = 50_000) -> Moments:
    """Returns the pixel moments of the data's first images, at most `limit` of them."""
    parts = data.chunks(source, min(len(source), limit))
    return pixel_moments(np.asarray(part.image) for part in parts)


def _square(image_shape: tuple[int, ...], most_pixels: int) -> int:
    """The side of squares of which at most `most_pixels` fit along the image."""
    return -(-max(image_shape[:2]) // most_pixels)


def _shrink(images: UInt8[np.ndarray, "b h w c"], most_pixels: int) -> np.ndarray:
    """Averages over squares; a rest at the edges is cut off."""
    b, h, w, c = images.shape
    k = _square((h, w), most_pixels)
    rows, columns = h // k, w // k
    images = images[:, : rows * k, : columns * k]
    return images.reshape(b, rows, k, columns, k, c).mean((2, 4))


def _step_maker(
    name: SamplerName, gamma: float
) -> Callable[[Key[Array, " b"]], samplers.Step]:
    """Returns keys -> step; DDIM has no use for the keys."""
    match name:
        case "ddim":
            return lambda keys: samplers.ddim_step
        case "ancestral":
            return lambda keys: samplers.make_ancestral_step(keys, gamma)
    raise ValueError(f"sampler: {name!r} is not one of {get_args(SamplerName)}")


def _image_keys(
    key: Key[Array, ""], indices: Int[Array, " b"], purpose: int
) -> Key[Array, " b"]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
