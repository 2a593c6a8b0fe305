"""Draws images, one key an image."""

import functools
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from progdist import data, parallel
from progdist.denoiser import bind
from progdist.diffusion import ode, samplers
from progdist.diffusion.prediction import Denoise, Target
from progdist.diffusion.schedules import Schedule
from progdist.trainer.state import Params

SamplerName = Literal["ddim", "ancestral", "euler", "heun", "rk4"]
Sampler = Callable[[Params, Key[Array, ""], Array, Array], Array]


_Solver = Callable[
    [Denoise, Schedule, Float[Array, "b *d"], Int[Array, ""]], Float[Array, "b *d"]
]


def calls_a_step(name: SamplerName) -> int:
    """Returns the network calls of one step of a sampler; N is always one of calls.

    Euler's, Heun's and the Runge-Kutta method of order 4 solve the probability-flow
    ODE in N / 1, N / 2 and N / 4 steps, without clipping.
    """
    return {"heun": 2, "rk4": 4}.get(name, 1)


def check_calls(name: SamplerName, num_steps: int) -> None:
    """Refuses a number of network calls that the sampler's steps cannot make.

    Raises:
      ValueError: if it is not a multiple of `calls_a_step`.
    """
    calls = calls_a_step(name)
    if num_steps % calls:
        raise ValueError(
            f"--sampler={name}: makes {calls} network calls a step, and N = "
            f"{num_steps} is not a multiple of it"
        )


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

    One compilation serves every number of steps, which is one of network calls: it has
    to be a multiple of `calls_a_step(name)`. Indices are split over the devices; image
    i of a conditional network has the class i modulo the number of classes.

    Raises:
      ValueError: if `name` is not one of `SamplerName`.
    """
    make_solver = _solver_maker(name, gamma)

    def draw(
        params: Params,
        key: Key[Array, ""],
        indices: Int[Array, " b"],
        num_steps: Int[Array, ""],
    ) -> Float[Array, "b *d"]:
        label = indices % num_classes if num_classes else None
        solve = make_solver(_image_keys(key, indices, 1))
        z_1 = image_noise(key, indices, image_shape)
        denoise = bind(net, params, output, label)
        return solve(denoise, schedule, z_1, num_steps)

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


def _solver_maker(
    name: SamplerName, gamma: float
) -> Callable[[Key[Array, " b"]], _Solver]:
    """Returns keys -> solver; only the ancestral one has a use for the keys."""
    match name:
        case "ddim":
            return lambda keys: samplers.sample
        case "ancestral":
            return lambda keys: functools.partial(
                samplers.sample, step=samplers.make_ancestral_step(keys, gamma)
            )
        case "euler" | "heun" | "rk4":
            return lambda keys: functools.partial(_integrate, name)
    raise ValueError(f"sampler: {name!r} is not one of {get_args(SamplerName)}")


def _integrate(
    method: ode.Method,
    denoise: Denoise,
    schedule: Schedule,
    z_1: Float[Array, "b *d"],
    num_calls: Int[Array, ""],
) -> Float[Array, "b *d"]:
    num_steps = num_calls // calls_a_step(method)
    return ode.integrate(denoise, schedule, z_1, num_steps, method).z


def _image_keys(
    key: Key[Array, ""], indices: Int[Array, " b"], purpose: int
) -> Key[Array, " b"]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
