"""The evaluator, on a model of a few parameters and made images."""

import jax
import numpy as np
import pytest

from progdist import parallel
from progdist.config import Evaluation
from progdist.data import ArraySource
from progdist.evaluate import evaluator, extraction, references
from progdist.evaluate.evaluator import Evaluator
from progdist.evaluate.specs import SamplerSpec
from tests import tiny

DDIM = SamplerSpec(0, 4, 4, "ddim")


@pytest.fixture
def evaluate(own_cache, tmp_path):
    """Evaluates the model in one way, with other settings than the defaults here."""
    images = np.random.default_rng(0).integers(0, 256, (64, *tiny.SHAPE), np.uint8)
    source = ArraySource("made", images, np.zeros(64, np.int32))
    reference = references.make_reference(source, "train", 16, 1)
    mesh = parallel.make_mesh(jax.devices()[:1])
    params = parallel.place(tiny.params(), mesh)
    extractors = [extraction.make_extractor("pixels", tiny.SHAPE, 8)]

    def run(spec=DDIM, rows=(), **settings):
        settings = {"num_samples": 20, "batch_size": 8, "grid_images": 10} | settings
        made = Evaluator(
            mesh,
            Evaluation(**settings),
            extractors,
            reference,
            tmp_path / "measuring",
        )
        (result,) = made.evaluate(tiny.model(), params, [spec], rows)
        return result

    return run


def test_the_first_images_are_handed_out_and_no_more(evaluate):
    images = evaluate().images
    assert images.shape == (10, *tiny.SHAPE)
    np.testing.assert_array_equal(evaluate(grid_images=3).images, images[:3])
    np.testing.assert_array_equal(evaluate(batch_size=4).images, images)


def test_the_seed_is_that_of_the_samples(evaluate):
    one, other = evaluate(seed=0), evaluate(seed=1)
    assert one.rows[0].value != other.rows[0].value
    assert not np.array_equal(one.images, other.images)


def test_gamma_is_that_of_the_spec(evaluate):
    ways = [SamplerSpec(0, 4, 4, "ancestral", gamma) for gamma in (0.0, 1.0)]
    one, other = map(evaluate, ways)
    assert not np.array_equal(one.images, other.images)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_time_of_sampling_leaves_out_compilation(evaluate, sampler, monkeypatch):
    """A minute is spent while the sampler compiles; one batch gives a time."""
    now, calls = [0.0], []
    inner = evaluator.make_sampler

    def make(*args):
        sampler = inner(*args)

        def advance(*inputs):
            _, first, last = inputs[-1]
            now[0] += 0.004 * (last - first) if calls else 60.0
            calls.append(last - first)
            return sampler.advance(*inputs)

        return sampler._replace(advance=advance)

    monkeypatch.setattr(evaluator, "make_sampler", make)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    spec = SamplerSpec(0, 4, 4, sampler)
    (row,) = evaluate(spec, num_samples=8).rows
    assert row.milliseconds == 2.0
    assert calls[0] == (2 if sampler == "heun" else 1)
    assert sum(calls[1:]) == 4


def test_a_row_of_the_same_samples_is_not_computed_again(evaluate):
    rows = evaluate().rows
    assert evaluate(rows=rows).rows == []
    assert len(evaluate(rows=rows, seed=1).rows) == 1
