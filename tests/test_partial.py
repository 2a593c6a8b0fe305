"""Measurements that are stopped, and go on from what they have."""

import contextlib
import signal

import jax
import numpy as np
import pytest

from progdist import data, parallel
from progdist.config import Evaluation
from progdist.errors import Interrupted
from progdist.evaluate import evaluator, extraction, metrics, partial, references
from progdist.evaluate.evaluator import Evaluator
from progdist.evaluate.specs import SamplerSpec
from progdist.workdir import array_cache, provenance
from tests import tiny

NUM, BATCH, STEPS = 20, 8, 16
SPEC = SamplerSpec(0, 4, STEPS, "ancestral", 0.3)
STOP = Interrupted(signal.SIGTERM, "here")


class Machine:
    """An evaluator whose process can end after some calls of `advance`.

    Attributes:
      spans: what was drawn: (first network call, last network call).
      counts: numbers of images that were counted.
    """

    def __init__(self, directory, monkeypatch):
        self.directory, self.spans, self.counts = directory, [], []
        self.end, self.calls = None, 0
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (64, *tiny.SHAPE), np.uint8)
        source = data.ArraySource("made", images, np.zeros(64, np.int32))
        reference = references.make_reference(source, "train", 16, 1)
        self.reference = reference._replace(counting=self.counting)
        make = evaluator.make_sampler

        def make_counted(*args):
            sampler = make(*args)

            def advance(*inputs):
                self.spans.append(inputs[-1][1:])
                return sampler.advance(*inputs)

            return sampler._replace(advance=advance)

        monkeypatch.setattr(evaluator, "make_sampler", make_counted)

    @contextlib.contextmanager
    def counting(self, title, total):
        """Ends at the given call of `advance`, of all that count images."""

        def advance(count):
            self.counts.append(count)
            self.calls -= total > 1
            if self.end and not self.calls:
                raise self.end

        yield advance

    def evaluate(
        self,
        end=None,
        calls=0,
        **settings,
    ):
        """Evaluates in a process of its own, whose caches are empty."""
        self.end, self.calls = end, calls
        settings = {
            "num_samples": NUM,
            "batch_size": BATCH,
            "grid_images": 10,
        } | settings
        made = Evaluator(
            parallel.make_mesh(jax.devices()[:1]),
            Evaluation(metrics=("fd", "kid"), **settings),
            [extraction.make_extractor("pixels", tiny.SHAPE, BATCH)],
            self.reference,
            self.directory,
        )
        params = parallel.place(tiny.params(), made.mesh)
        (result,) = made.evaluate(tiny.model(), params, [SPEC], [])
        return result


@pytest.fixture
def machine(own_cache, tmp_path, monkeypatch):
    return Machine(tmp_path / "measuring", monkeypatch)


def assert_same(one, other):
    assert one.rows == other.rows
    np.testing.assert_array_equal(one.images, other.images)


def test_a_measurement_stopped_twice_ends_as_one_left_alone(machine, tmp_path):
    alone = machine.evaluate()
    assert len(alone.rows) == 2
    once = sum(last - first for first, last in machine.spans)
    machine.directory, machine.spans = tmp_path / "stopped", []
    for calls in (2, 4):
        with pytest.raises(Interrupted):
            machine.evaluate(STOP, calls)
        assert len(list(machine.directory.iterdir())) == 1
    machine.counts.clear()
    assert_same(machine.evaluate(), alone)
    # Each start compiles by a network call.
    assert sum(last - first for first, last in machine.spans) == once + 2
    assert sum(machine.counts) < NUM
    assert not machine.directory.exists()


def test_a_killed_measurement_loses_only_what_followed_the_last_state(
    machine, monkeypatch
):
    alone = machine.evaluate()
    monkeypatch.setattr(partial, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(partial, "LEAST_RATIO", 0.0)
    for calls in (3, 3):
        machine.spans.clear()
        with pytest.raises(KeyboardInterrupt):  # nothing is kept on its way out
            machine.evaluate(KeyboardInterrupt(), calls)
    machine.counts.clear()
    assert_same(machine.evaluate(), alone)
    assert sum(machine.counts) < NUM
    assert not machine.directory.exists()


def test_a_stop_while_a_metric_is_computed_keeps_all_images(machine, monkeypatch):
    alone = machine.evaluate()
    with monkeypatch.context() as patch:
        patch.setattr(references, "values_of", lambda *_: (_ for _ in ()).throw(STOP))
        with pytest.raises(Interrupted):
            machine.evaluate()
    machine.spans.clear()
    assert_same(machine.evaluate(), alone)
    assert not machine.spans  # not even to compile


@pytest.mark.parametrize(
    "settings", [{"seed": 1}, {"batch_size": 4}, {"grid_images": 3}]
)
def test_another_measurement_begins_anew(machine, settings):
    alone = machine.evaluate(**settings)
    with pytest.raises(Interrupted):
        machine.evaluate(STOP, 4)
    assert_same(machine.evaluate(**settings), alone)
    assert len(list(machine.directory.iterdir())) == 1  # of the one that was stopped


@pytest.mark.parametrize(
    ("module", "name"), [(jax, "device_count"), (provenance, "versions")]
)
def test_another_environment_begins_anew(machine, module, name, monkeypatch):
    alone = machine.evaluate()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda: 7)
        with pytest.raises(Interrupted):
            machine.evaluate(STOP, 4)
    machine.counts.clear()
    assert_same(machine.evaluate(), alone)
    assert sum(machine.counts) >= NUM
    assert not machine.directory.exists()  # nothing is left of the other


def test_a_damaged_state_is_ignored(machine):
    alone = machine.evaluate()
    with pytest.raises(Interrupted):
        machine.evaluate(STOP, 4)
    (path,) = machine.directory.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_same(machine.evaluate(), alone)


def test_a_state_that_cannot_be_written_is_no_error(machine, capsys):
    machine.directory.write_text("in the way")
    with pytest.raises(Interrupted):
        machine.evaluate(STOP, 4)
    assert "not kept" in capsys.readouterr().err
    machine.evaluate()


@pytest.mark.parametrize("needs", [metrics.ALL, metrics.Needs()])
@pytest.mark.parametrize("shape", [(4, 4, 1), (32, 32, 1)])  # sums, and all features
def test_statistics_of_the_data_go_on_where_they_stopped(own_cache, needs, shape):
    images = np.random.default_rng(0).integers(0, 256, (101, *shape), np.uint8)
    source = data.ArraySource("made", images, np.zeros(101, np.int32))
    pixels = extraction.make_extractor("pixels", shape, 16)
    reference = references.make_reference(source, "train", 16, 2)
    seen = []

    @contextlib.contextmanager
    def stopping(title, total):
        def advance(count):
            seen.append(count)
            if len(seen) in (2, 3):
                raise STOP

        yield advance

    alone = references.statistics(reference, pixels, needs=needs)
    cached = array_cache.path_of(references.CACHE, {}).parent
    for path in cached.iterdir():
        path.unlink()
    stopped = reference._replace(counting=stopping)
    for _ in range(2):
        with pytest.raises(Interrupted):
            references.statistics(stopped, pixels, needs=needs)
    result = references.statistics(stopped, pixels, needs=needs)
    assert sum(seen) == 101
    assert len(list(cached.iterdir())) == 1
    np.testing.assert_array_equal(result.vectors, alone.vectors)
    for name, array in vars(alone.moments).items():
        np.testing.assert_array_equal(getattr(result.moments, name), array)


def test_a_score_goes_on_where_it_stopped():
    rng = np.random.default_rng(0)
    features, logits = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    whole, first, second = (metrics.Collector(40, 5, 3) for _ in range(3))
    for start in range(0, 40, 10):
        rows = np.arange(start, start + 10)
        whole.add(rows, features[rows], logits[rows])
        here = first if start < 20 else second
        here.add(rows, features[rows], logits[rows])
        if start == 10:
            second.restore(first.state())
    one, other = (metrics.merge(40, [c.sums()]) for c in (whole, second))
    assert one.score == other.score
    np.testing.assert_array_equal(one.moments.covariance, other.moments.covariance)
