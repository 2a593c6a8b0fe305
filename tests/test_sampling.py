import itertools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import parallel
from progdist.data import to_uint8
from progdist.diffusion import samplers, solvers
from progdist.diffusion.schedules import Cosine
from progdist.diffusion.settings import SolverName
from progdist.errors import NonFiniteError
from progdist.model import Model, bind
from progdist.nets.unet import UNet
from progdist.sampling import draw as sampling
from tests import tiny, toy


def draw(num_images, batch_size, num_devices=1, name="ddim", num_steps=4, seed=0):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    sampler = sampling.make_sampler(tiny.model(), mesh, name, 0.5)
    params = parallel.place(tiny.params(), mesh)
    batches = sampling.Batches(
        sampler, params, seed, num_images, num_steps, batch_size, mesh
    )
    return np.concatenate(list(batches))


@pytest.mark.parametrize("name", ["ddim", "ancestral", "rk4"])
def test_an_image_depends_on_its_number_alone(name):
    images = draw(16, 16, name=name)
    assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
    np.testing.assert_array_equal(draw(5, 16, name=name), images[:5])
    np.testing.assert_array_equal(draw(11, 4, name=name), images[:11])
    np.testing.assert_array_equal(draw(16, 8, num_devices=8, name=name), images)
    assert not np.array_equal(draw(16, 16, name=name, seed=1), images)


def test_images_that_are_not_finite_are_an_error_and_not_black():
    mesh = parallel.make_mesh(jax.devices()[:1])

    def broken_at_5(params, key, z, indices, label, span):
        return np.where((indices == 5)[:, None, None, None], np.nan, np.ones_like(z))

    sampler = sampling.make_sampler(tiny.model(), mesh)._replace(advance=broken_at_5)
    drawn = iter(sampling.Batches(sampler, (), 0, 8, 3, 4, mesh))
    assert (next(drawn) == 255).all()
    with pytest.raises(NonFiniteError, match=r"in 3 steps: 1 of 4 .* is image 5$"):
        next(drawn)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, tiny.params())
    with pytest.raises(NonFiniteError, match="in 2 steps: 4 of 4 images"):
        sampling.draw_trajectory(
            tiny.model(), broken, seed=0, num_images=4, num_steps=2
        )


def test_one_trace_serves_every_number_of_steps(monkeypatch):
    traces = []
    inner = samplers.sample

    def counted(*args, **settings):
        traces.append(1)
        return inner(*args, **settings)

    monkeypatch.setattr(samplers, "sample", counted)
    mesh = parallel.make_mesh(jax.devices()[:1])
    sampler = sampling.make_sampler(tiny.model(), mesh)
    params = parallel.place(tiny.params(), mesh)
    for num_steps in (1, 2, 7):
        list(sampling.Batches(sampler, params, 0, 4, num_steps, 4, mesh))
    assert len(traces) == 1


def test_the_path_ends_in_the_image():
    indices = jnp.arange(4)
    z_1 = sampling.image_noise(jax.random.key(0), indices, tiny.SHAPE)
    states = sampling.draw_trajectory(
        tiny.model(), tiny.params(), seed=0, num_images=4, num_steps=4
    )
    assert states.shape == (5, 4, *tiny.SHAPE)
    np.testing.assert_array_equal(states[0], z_1)
    np.testing.assert_array_equal(to_uint8(states[-1]), draw(4, 4))


class InPiecesOf(sampling.Pace):
    """Pieces of a fixed number of solver steps."""

    def __init__(self, steps):
        self.steps = steps

    def measure(self, steps, seconds):
        pass


def batches_in_pieces(steps, name="ddim", num_images=16, num_steps=16):
    mesh = parallel.make_mesh(jax.devices()[:2])
    sampler = sampling.make_sampler(tiny.model(), mesh, name, 0.5)
    sampler = sampler._replace(pace=InPiecesOf(steps))
    params = parallel.place(tiny.params(), mesh)
    return sampling.Batches(sampler, params, 0, num_images, num_steps, 8, mesh)


@pytest.mark.parametrize("name", get_args(SolverName))
def test_images_do_not_depend_on_the_pieces(name):
    whole, *others = (
        np.concatenate(list(batches_in_pieces(n, name))) for n in (16, 1, 3)
    )
    for images in others:
        np.testing.assert_array_equal(images, whole)
    keys = jax.random.split(jax.random.key(0), 8)
    solve = solvers.make_solver(name, keys=keys, gamma=0.5)
    z_1 = jax.random.normal(jax.random.key(1), (8, *tiny.SHAPE))
    denoise = bind(tiny.model(), tiny.params())

    @jax.jit
    def by_parts(ends):
        z = z_1
        for first, last in itertools.pairwise(ends):
            z = solve(denoise, Cosine(), z, solvers.Span(16, first, last))
        return z

    np.testing.assert_array_equal(
        by_parts(jnp.array([0, 16, 16, 16])), by_parts(jnp.array([0, 4, 12, 16]))
    )


def test_drawing_resumes_within_a_batch_from_its_state():
    whole = list(batches_in_pieces(5))
    stopped, pieces = batches_in_pieces(5), itertools.count(1)

    def stop(count):
        if next(pieces) == 6:  # in four pieces a batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stopped.draw(stop))
    assert stopped.done == 8 + 8 * 10 // 16
    resumed, counts = batches_in_pieces(5), []
    resumed.restore(stopped.state())
    (rest,) = resumed.draw(counts.append)
    np.testing.assert_array_equal(rest, whole[1])
    assert sum(counts) == 3
    assert len(counts) == 2
    assert len(resumed.seconds) == 2


def test_a_piece_takes_a_few_seconds_and_at_most_doubles():
    pace, sizes = sampling.Pace(), []
    for _ in range(9):
        sizes.append(pace.steps)
        pace.measure(pace.steps, 0.125 * pace.steps)  # of a second for each step
    assert sizes == [1, 2, 4, 8, 16, 24, 24, 24, 24]
    pace.measure(24, 50.0)  # as in a compilation
    assert pace.steps == 1


@pytest.mark.parametrize("name", ["ancestral", "heun"])
def test_images_are_the_same_for_batches_of_1_7_and_64(name):
    images = draw(70, 64, name=name)
    for batch_size in (1, 7):
        np.testing.assert_array_equal(draw(70, batch_size, name=name), images)


def test_images_of_a_u_net_are_the_same_for_batches_of_1_7_and_64():
    mesh = parallel.make_mesh(jax.devices()[:1])
    net = UNet(16, 32, (1, 2), 1, (4,), out_ch=1)  # of two levels, with attention
    z = jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, z[:, 0, 0, 0])["params"]
    rng = np.random.default_rng(0)
    leaves = jax.tree.map(
        lambda leaf: np.float32(0.1) * rng.standard_normal(leaf.shape, np.float32),
        shapes,
    )
    params = parallel.place(leaves, mesh)
    sampler = sampling.make_sampler(
        Model(net, "v", Cosine(), (8, 8, 1), num_classes=0), mesh
    )
    drawn = {
        size: np.concatenate(
            list(sampling.Batches(sampler, params, 0, 20, 2, size, mesh))
        )
        for size in (1, 7, 64)
    }
    assert len(np.unique(drawn[64].reshape(20, -1), axis=0)) == 20
    np.testing.assert_array_equal(drawn[1], drawn[64])
    np.testing.assert_array_equal(drawn[7], drawn[64])


@pytest.mark.parametrize("name", get_args(SolverName))
def test_n_is_the_number_of_network_calls(name):
    calls = []

    class Counted(tiny.TinyNet):
        @nn.compact
        def __call__(self, z, logsnr, conditioning=None, dropout=None):
            jax.debug.callback(lambda: calls.append(1))
            return super().__call__(z, logsnr)

    mesh = parallel.make_mesh(jax.devices()[:1])
    params = parallel.place(tiny.params(), mesh)
    sampler = sampling.make_sampler(tiny.model(net=Counted()), mesh, name, 0.5)
    list(sampling.Batches(sampler, params, 0, 4, 8, 4, mesh))
    jax.effects_barrier()
    assert len(calls) == 8


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler: 'plms' is not one of"):
        toy.unchecked(solvers.make_solver)("plms", keys=None, gamma=0.0)


def test_a_part_of_a_step_is_refused():
    mesh = parallel.make_mesh(jax.devices()[:1])
    sampler = sampling.make_sampler(tiny.model(), mesh, "rk4")
    with pytest.raises(ValueError, match="num_steps=6: must be a multiple of 4"):
        sampling.Batches(sampler, (), 0, 4, 6, 4, mesh)


class Label(nn.Module):
    """A network whose x̂ is its label over 10."""

    @nn.compact
    def __call__(self, z, logsnr, conditioning=None, dropout=None):
        tenths = conditioning.label[:, None, None, None] / 10
        return self.param("zero", nn.initializers.zeros, ()) + tenths + 0 * z


@pytest.mark.parametrize("name", ["ddim", "ancestral"])
def test_image_i_has_class_i_modulo_the_classes(name):
    """In every batch, and on the path of a trajectory."""
    mesh = parallel.make_mesh(jax.devices()[:2])
    model = Model(Label(), "x", Cosine(), tiny.SHAPE, num_classes=3)
    params = parallel.place({"zero": jnp.float32(0)}, mesh)
    sampler = sampling.make_sampler(model, mesh, name, 0.5)
    drawn = np.concatenate(list(sampling.Batches(sampler, params, 0, 8, 2, 4, mesh)))
    expected = to_uint8(np.array([0, 1, 2, 0, 1, 2, 0, 1]) / 10)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], expected)
    path = sampling.draw_trajectory(model, params, seed=0, num_images=8, num_steps=2)
    np.testing.assert_array_equal(to_uint8(path[-1, :, 0, 0, 0]), expected)


def test_gamma_reaches_the_ancestral_sampler():
    mesh = parallel.make_mesh(jax.devices()[:1])
    params = parallel.place(tiny.params(), mesh)
    images = [
        next(iter(sampling.Batches(sampler, params, 0, 4, 4, 4, mesh)))
        for sampler in (
            sampling.make_sampler(tiny.model(), mesh, "ancestral", gamma)
            for gamma in (0.0, 1.0)
        )
    ]
    assert not np.array_equal(*images)
