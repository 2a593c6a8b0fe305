"""Sampling of images, with one random key per image.

Image i depends only on the seed and on i: its noise, its class, and the noise of the
ancestral sampler.
"""

import functools
import time
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
from progdist.diffusion.settings import Clip, SolverName
from progdist.diffusion.solvers import Span
from progdist.errors import NonFiniteError
from progdist.model import Model, Params, bind, has_small_maps, param_specs
from progdist.nets.conditioning import Conditioning
from progdist.plan import MOST_STEPS

PIECE_SECONDS = 3.0
_LEAST_SECONDS = 1e-6  # that a clock can measure


class Pace:
    """Size of the pieces in which a batch is drawn: they take a few seconds each.

    Between pieces a run can hear a signal, report progress and save its state. The size
    follows from the time of the piece before, at most doubles, and is the same on all
    processes.

    Attributes:
      steps: number of solver steps of the next piece.
    """

    def __init__(self) -> None:
        """Starts with pieces of one step."""
        self.steps = 1

    def measure(self, steps: int, seconds: float) -> None:
        """Adapts the size to the time that a piece of `steps` took on process 0."""
        fitting = int(steps * PIECE_SECONDS / max(seconds, _LEAST_SECONDS))
        size = min(max(fitting, 1), 2 * self.steps, MOST_STEPS)
        self.steps = parallel.of_all_processes(size)[0]


class Sampler(NamedTuple):
    """Compiled sampler of a model.

    Attributes:
      begin: (key, indices) -> noise z.
      advance: (params, key, z, indices, label, span) -> z after the span; in the end
        images in [-1, 1]. Reuses the memory of z.
      num_classes: number of classes of the model; 0 without classes.
      calls_per_step: network calls per solver step.
      pace: size of the pieces.
    """

    begin: Callable[[Key[Array, ""], Array], Array]
    advance: Callable[[Params, Key[Array, ""], Array, Array, Array, Span], Array]
    num_classes: int
    calls_per_step: int
    pace: Pace


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
    model: Model,
    mesh: Mesh,
    name: SolverName = "ddim",
    gamma: float = 0.0,
    clip: Clip = "recompute",
) -> Sampler:
    """Returns the compiled sampler.

    One compilation serves every number of steps. It counts network calls and must be a
    multiple of `solvers.calls_per_step(name)`. Images are split over the devices.

    Raises:
      ValueError: if `name` is not one of `SolverName`.
    """

    def begin(key: Key[Array, ""], indices: Int[Array, " b"]) -> Float[Array, "b *d"]:
        return image_noise(key, indices, model.image_shape)

    def advance(
        params: Params,
        key: Key[Array, ""],
        z: Float[Array, "b *d"],
        indices: Int[Array, " b"],
        label: Int[Array, " b"],
        span: Span,
    ) -> Float[Array, "b *d"]:
        keys = _image_keys(key, indices, 1)
        solve = solvers.make_solver(name, keys=keys, gamma=gamma, clip=clip)
        return solve(_denoise(model, params, label), model.schedule, z, span)

    rows, whole = parallel.ROWS, parallel.REPLICATED
    specs = param_specs(model), whole, rows, rows, rows, whole
    return Sampler(
        parallel.pmap(begin, mesh, (whole, rows), rows),
        parallel.pmap(
            advance,
            mesh,
            specs,
            rows,
            donate_argnums=(2,),
            small_maps=has_small_maps(model),
        ),
        model.num_classes,
        solvers.calls_per_step(name),
        Pace(),
    )


class Batches:
    """Images drawn in batches, as bytes, and each batch in pieces of a few seconds.

    Every batch is computed at its full size, so an image does not depend on their
    number; nor does it on the pieces. Every process receives all images. Between two
    pieces `state` returns what is done so far, and `restore` resumes there.

    Attributes:
      first: number of the first image of the batch under way.
      seconds: time of each batch, the one under way included.
    """

    def __init__(
        self,
        sampler: Sampler,
        params: Params,
        seed: int,
        num_images: int,
        num_steps: int,
        batch_size: int,
        mesh: Mesh,
        start: int = 0,
        labels: Sequence[int] = (),
    ) -> None:
        """Prepares images start … num_images - 1.

        `labels` are the classes to draw in turn; by default all of them.

        Raises:
          ValueError: if `num_steps` is not a multiple of the sampler's calls per step.
        """
        if num_steps % sampler.calls_per_step:
            calls = sampler.calls_per_step
            raise ValueError(f"num_steps={num_steps}: must be a multiple of {calls}")
        self.first, self.seconds = start, list[float]()
        self._step, self._z = 0, None
        self._sampler, self._params, self._mesh = sampler, params, mesh
        self._key = parallel.place(jax.random.key(seed), mesh)
        self._num_images, self._num_steps = num_images, num_steps
        self._size, self._labels = batch_size, labels

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        """Yields the images of each batch."""
        return self.draw(lambda count: None)

    @property
    def done(self) -> int:
        """Number of images drawn; a part of a batch counts as some of its images."""
        here = min(self._size, self._num_images - self.first)
        first = min(self.first, self._num_images)
        return first + here * self._step // self._num_steps

    def draw(
        self, advance: Callable[[int], None]
    ) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
        """Yields the images of each batch; tells `advance` how many a piece completes.

        Raises:
          NonFiniteError: if a pixel is NaN or infinite.
        """
        while self.first < self._num_images:
            self.finish(advance)
            yield self._images()
            self.first, self._step, self._z = self.first + self._size, 0, None

    def finish(self, advance: Callable[[int], None]) -> None:
        """Draws the rest of the batch under way."""
        rows = parallel.local_rows(self._size)
        indices = np.arange(self.first, self.first + self._size, dtype=np.int32)[rows]
        label = labels_of(indices, self._sampler.num_classes, self._labels)
        inputs = parallel.shard((indices, label), self._mesh)
        while self._step < self._num_steps:
            before = self.done
            self._draw_piece(*inputs)
            advance(self.done - before)

    def state(self) -> dict[str, np.ndarray]:
        """Returns what is done so far, on this process."""
        state = {
            "first": np.array(self.first),
            "step": np.array(self._step),
            "seconds": np.array(self.seconds),
        }
        return state if self._z is None else state | {"z": parallel.local_part(self._z)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Resumes from a state."""
        self.first, self._step = int(state["first"]), int(state["step"])
        self.seconds = state["seconds"].tolist()
        if "z" in state:
            self._z = parallel.shard(state["z"], self._mesh)

    def _draw_piece(self, indices: Array, label: Array) -> None:
        began, sampler = time.perf_counter(), self._sampler
        if self._z is None:
            self._z = sampler.begin(self._key, indices)
            self.seconds.append(0.0)
        left = (self._num_steps - self._step) // sampler.calls_per_step
        steps = min(sampler.pace.steps, left)
        last = self._step + steps * sampler.calls_per_step
        span = Span(self._num_steps, self._step, last)
        self._z = jax.block_until_ready(
            sampler.advance(self._params, self._key, self._z, indices, label, span)
        )
        self._step, seconds = last, time.perf_counter() - began
        self.seconds[-1] += seconds
        sampler.pace.measure(steps, seconds)

    def _images(self) -> UInt8[np.ndarray, "b h w c"]:
        began = time.perf_counter()
        pixels = parallel.gather(self._z)[: self._num_images - self.first]
        images = data.to_uint8(_finite(pixels, self.first, self._num_steps))
        self.seconds[-1] += time.perf_counter() - began
        return images


def compile_sampler(
    sampler: Sampler, params: Params, batch_size: int, mesh: Mesh
) -> None:
    """Compiles the sampler for a batch size, by drawing a batch in a single step."""
    fewest = sampler.calls_per_step
    batch = Batches(sampler, params, 0, batch_size, fewest, batch_size, mesh)
    batch.finish(lambda count: None)


def draw_trajectory(
    model: Model,
    params: Params,
    *,
    seed: int,
    num_images: int,
    num_steps: int,
    labels: Sequence[int] = (),
    clip: Clip = "recompute",
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
        return samplers.trajectory(
            denoise, model.schedule, z_1, num_steps=num_steps, clip=clip
        ).z

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
