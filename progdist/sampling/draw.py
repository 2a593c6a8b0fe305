"""Sampling of images, with one random key per image.

Image i depends only on the seed and on i: its noise, its class, and the noise of the
ancestral sampler.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from progdist import data, parallel
from progdist.diffusion import samplers, solvers
from progdist.diffusion.prediction import Denoise
from progdist.diffusion.settings import SolverName
from progdist.errors import NonFiniteError
from progdist.model import Model, Params, bind, param_specs
from progdist.nets.conditioning import Conditioning


class Sampler(NamedTuple):
    """Compiled sampler of a model.

    Attributes:
      draw: (params, key, indices, label, num_steps) -> images in [-1, 1].
      num_classes: number of classes of the model; 0 without classes.
    """

    draw: Callable[[Params, Key[Array, ""], Array, Array, Array], Array]
    num_classes: int


def image_noise(
    key: Key[Array, ""], indices: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b *d"]:
    """Returns z_1 of the images; z_1 of image i depends only on the key and i."""
    keys = _image_keys(key, indices, 0)
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)


def labels_of(
    indices: Int[np.ndarray, " b"], num_classes: int, labels: Sequence[int] = ()
) -> Int[np.ndarray, " b"]:
    """Returns the class of each image: image i has class i mod num_classes.

    Args:
      indices: numbers of the images.
      num_classes: number of classes; 0 without classes.
      labels: the classes to draw, if not all in turn: image i has the class
        labels[i mod len(labels)].
    """
    chosen = np.asarray(labels or range(max(num_classes, 1)), np.int32)
    return chosen[np.asarray(indices) % len(chosen)]


def conditioning_of(label: Int[Array, " b"], num_classes: int) -> Conditioning:
    """Returns the conditioning on the classes, none without classes."""
    return Conditioning(label if num_classes else None)


def make_sampler(
    model: Model, mesh: Mesh, name: SolverName = "ddim", gamma: float = 0.0
) -> Sampler:
    """Returns the compiled sampler.

    One compilation serves every number of steps. It counts network calls and must be a
    multiple of `solvers.calls_per_step(name)`. Images are split over the devices.

    Raises:
      ValueError: if `name` is not one of `SolverName`.
    """

    def draw(
        params: Params,
        key: Key[Array, ""],
        indices: Int[Array, " b"],
        label: Int[Array, " b"],
        num_steps: Int[Array, ""],
    ) -> Float[Array, "b *d"]:
        keys = _image_keys(key, indices, 1)
        solve = solvers.make_solver(name, keys=keys, gamma=gamma)
        z_1 = image_noise(key, indices, model.image_shape)
        denoise = _denoise(model, params, label)
        return solve(denoise, model.schedule, z_1, num_steps)

    rows, whole = parallel.ROWS, parallel.REPLICATED
    specs = param_specs(model), whole, rows, rows, whole
    return Sampler(parallel.pmap(draw, mesh, specs, rows), model.num_classes)


def draw_images(
    sampler: Sampler,
    params: Params,
    seed: int,
    num_images: int,
    num_steps: int,
    batch_size: int,
    mesh: Mesh,
    start: int = 0,
    labels: Sequence[int] = (),
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Yields images start … num_images - 1 in batches, as bytes.

    Every batch is computed at its full size, so an image does not depend on their
    number. Every process receives all images. `labels` are the classes to draw in turn;
    by default all of them.

    Raises:
      NonFiniteError: if a pixel is NaN or infinite.
    """
    key, steps = parallel.place((jax.random.key(seed), jnp.int32(num_steps)), mesh)
    for first in range(start, num_images, batch_size):
        pixels = _draw_batch(
            sampler, params, key, steps, first, batch_size, mesh, labels
        )[: num_images - first]
        yield data.to_uint8(_finite(pixels, first, num_steps))


def compile_sampler(
    sampler: Sampler, params: Params, num_steps: int, batch_size: int, mesh: Mesh
) -> None:
    """Compiles the sampler for a batch size, by drawing a batch in `num_steps`."""
    key, steps = parallel.place((jax.random.key(0), jnp.int32(num_steps)), mesh)
    _draw_batch(sampler, params, key, steps, 0, batch_size, mesh)


def _draw_batch(
    sampler: Sampler,
    params: Params,
    key: Key[Array, ""],
    num_steps: Int[Array, ""],
    first: int,
    batch_size: int,
    mesh: Mesh,
    labels: Sequence[int] = (),
) -> Float[np.ndarray, "b *d"]:
    """Returns a whole batch of images in [-1, 1], on every process."""
    rows = parallel.local_rows(batch_size)
    indices = np.arange(first, first + batch_size, dtype=np.int32)[rows]
    label = labels_of(indices, sampler.num_classes, labels)
    indices, label = parallel.shard((indices, label), mesh)
    return parallel.gather(sampler.draw(params, key, indices, label, num_steps))


def draw_trajectory(
    model: Model,
    params: Params,
    *,
    seed: int,
    num_images: int,
    num_steps: int,
    labels: Sequence[int] = (),
) -> Float[np.ndarray, "states b *d"]:
    """Returns the DDIM states z_t from noise to image, t = 1 first.

    Each process computes them by itself, on one device.

    Raises:
      NonFiniteError: if a pixel is NaN or infinite.
    """
    indices = np.arange(num_images)
    label = labels_of(indices, model.num_classes, labels)

    @jax.jit
    def states(params: Params) -> Float[Array, "states b *d"]:
        z_1 = image_noise(jax.random.key(seed), jnp.array(indices), model.image_shape)
        denoise = _denoise(model, params, jnp.array(label))
        return samplers.trajectory(denoise, model.schedule, z_1, num_steps=num_steps).z

    z = np.asarray(states(jax.tree.map(np.asarray, params)))
    _finite(z.swapaxes(0, 1), 0, num_steps)
    return z


def _finite(
    pixels: Float[np.ndarray, "b *d"], first: int, num_steps: int
) -> Float[np.ndarray, "b *d"]:
    """Returns the pixels; refuses any that are NaN or infinite."""
    broken = np.flatnonzero(~np.isfinite(pixels.reshape(len(pixels), -1)).all(1))
    if len(broken):
        raise NonFiniteError(
            f"sampling in {num_steps} steps: {len(broken)} of {len(pixels)} images "
            f"have pixels that are not finite; the first is image {first + broken[0]}"
        )
    return pixels


def _denoise(model: Model, params: Params, label: Int[Array, " b"]) -> Denoise:
    conditioning = conditioning_of(label, model.num_classes)
    return functools.partial(bind(model, params), conditioning=conditioning)


def _image_keys(
    key: Key[Array, ""], indices: Int[Array, " b"], purpose: int
) -> Key[Array, " b"]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
