import jax
import numpy as np
import pytest
import scipy.linalg

from progdist import evaluate, parallel
from progdist.data import ArraySource
from progdist.diffusion.schedules import Cosine
from progdist.evaluate import Moments
from tests import tiny, toy


def random_moments(seed, d=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    return Moments(rng.normal(size=d), root @ root.T)


def test_frechet_distance_of_diagonal_gaussians():
    a = Moments(np.array([0.0, 1.0]), np.diag([1.0, 4.0]))
    b = Moments(np.array([2.0, 1.0]), np.diag([9.0, 4.0]))
    assert evaluate.frechet_distance(a, b) == pytest.approx(4 + (1 - 3) ** 2)


def test_frechet_distance_equals_the_form_with_a_matrix_root():
    a, b = random_moments(0), random_moments(1)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * root
    )
    assert evaluate.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_a_distance():
    a, b = random_moments(0), random_moments(1)
    assert evaluate.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    ab, ba = evaluate.frechet_distance(a, b), evaluate.frechet_distance(b, a)
    assert ab == pytest.approx(ba, rel=1e-9)


def test_frechet_distance_of_singular_covariances():
    a = Moments(np.zeros(3), np.diag([1.0, 0.0, 0.0]))
    b = Moments(np.zeros(3), np.diag([0.0, 4.0, 0.0]))
    assert evaluate.frechet_distance(a, b) == pytest.approx(5)


def test_moments_in_pieces_are_those_of_the_whole():
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 3, 1), np.uint8)
    moments = evaluate.pixel_moments(iter([images[:20], images[20:]]))
    x = images.reshape(50, -1) / 127.5 - 1
    np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), atol=1e-12)
    source = ArraySource("made", images, np.zeros(50, np.int32), 0)
    np.testing.assert_allclose(evaluate.source_moments(source).mean, moments.mean)


def test_large_images_are_averaged_over_squares_and_named_for_it():
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    squares = images.astype(float).reshape(9, 4, 2, 4, 2).mean((2, 4))
    expected = squares.reshape(9, 16) / 127.5 - 1
    moments = evaluate.pixel_moments([images], most_pixels=4)
    np.testing.assert_allclose(moments.mean, expected.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(expected.T), atol=1e-12)
    assert evaluate.metric_name((8, 8, 1)) == "FD-pixels"
    assert evaluate.metric_name((28, 28, 1)) == "FD-pixels"
    assert evaluate.metric_name((64, 64, 3)) == "FD-pixels32"
    assert evaluate.metric_name((128, 128, 3)) == "FD-pixels32"


def draw(num_images, batch_size, num_devices=1, name="ddim", num_steps=3, seed=0):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    sampler = evaluate.make_sampler(
        tiny.TinyNet(), "v", Cosine(), tiny.SHAPE, 0, mesh, name, 0.5
    )
    params = parallel.replicate(tiny.params(), mesh)
    batches = evaluate.draw_images(
        sampler, params, seed, num_images, num_steps, batch_size, mesh
    )
    return np.concatenate(list(batches))


@pytest.mark.parametrize("name", ["ddim", "ancestral"])
def test_an_image_depends_on_its_number_alone(name):
    images = draw(16, 16, name=name)
    assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
    np.testing.assert_array_equal(draw(5, 16, name=name), images[:5])
    np.testing.assert_array_equal(draw(11, 4, name=name), images[:11])
    np.testing.assert_array_equal(draw(16, 8, num_devices=8, name=name), images)
    assert not np.array_equal(draw(16, 16, name=name, seed=1), images)


def test_one_trace_serves_every_number_of_steps(monkeypatch):
    traces = []
    inner = evaluate.samplers.sample

    def counted(*args):
        traces.append(1)
        return inner(*args)

    monkeypatch.setattr(evaluate.samplers, "sample", counted)
    mesh = parallel.make_mesh(jax.devices()[:1])
    sampler = evaluate.make_sampler(tiny.TinyNet(), "v", Cosine(), tiny.SHAPE, 0, mesh)
    params = parallel.replicate(tiny.params(), mesh)
    for num_steps in (1, 2, 7):
        list(evaluate.draw_images(sampler, params, 0, 4, num_steps, 4, mesh))
    assert len(traces) == 1


def test_the_path_ends_in_the_image():
    indices = jax.numpy.arange(4)
    z_1 = evaluate.image_noise(jax.random.key(0), indices, tiny.SHAPE)
    states = evaluate.draw_trajectory(
        tiny.TinyNet(), tiny.params(), "v", Cosine(), z_1, 3
    )
    assert states.shape == (4, 4, *tiny.SHAPE)
    np.testing.assert_array_equal(states[0], z_1)
    np.testing.assert_array_equal(evaluate.data.to_uint8(states[-1]), draw(4, 4))


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler: 'heun' is not one of"):
        toy.unchecked(evaluate._step_maker)("heun", 0.0)
