"""Features over devices and processes, and statistics of data that are kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import data, parallel
from progdist.evaluate import extraction, features, metrics, references
from progdist.evaluate.features import Features, Network
from progdist.workdir import array_cache

FD = metrics.make_metric("fd")


def apply(params, images):
    """A network of two features and three classes."""
    x = images.astype(jnp.float32)
    sums = jnp.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], axis=1)
    return Features(sums, sums @ params / 50)


@pytest.fixture
def network():
    params = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    return Network("squeezenet", params, apply, "digest", "-squeezenet")


def make_source(num, seed=0, shape=(4, 4, 1)):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, *shape), np.uint8)
    return data.ArraySource("made", images, np.zeros(num, np.int32))


def in_parts(source, size):
    numbers = np.arange(len(source))
    for first in range(0, len(source), size):
        yield numbers[first : first + size], source.images[first : first + size]


def test_few_large_images_are_kept_by_the_root_of_their_covariance(own_cache):
    source = make_source(20, shape=(32, 32, 1))
    pixels = extraction.make_extractor("pixels", source.image_shape, 8)
    reference = references.make_reference(source, "train", 8, 1)
    first, again = (references.statistics(reference, pixels) for _ in range(2))
    root = first.moments.root
    assert root.shape == (1024, 20)
    np.testing.assert_array_equal(root, again.moments.root)
    x = source.images.reshape(20, -1) / 127.5 - 1
    np.testing.assert_allclose(root @ root.T, np.cov(x.T), atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_statistics_are_the_same_for_any_batch_size(network, size):
    source = make_source(70)
    extractor = extraction.network_extractor(network, source.image_shape, size)
    pixels = extraction.make_extractor("pixels", source.image_shape, size)
    found, of_pixels = extraction.collect(
        [extractor, pixels], in_parts(source, size), 70
    )
    direct = jax.jit(apply)(network.params, source.images)
    np.testing.assert_allclose(found.vectors, direct.features, 1e-5)
    np.testing.assert_allclose(
        found.moments.covariance, np.cov(np.float64(direct.features).T), 1e-4
    )
    x = source.images.reshape(70, -1) / 127.5 - 1
    np.testing.assert_allclose(of_pixels.moments.covariance, np.cov(x.T), 1e-9, 1e-12)
    assert found.score[0] > 1
    assert np.isnan(of_pixels.score[0])


def test_rows_of_a_process_are_put_together_in_order():
    mesh = parallel.make_mesh()
    rows = np.arange(16.0, dtype=np.float32).reshape(16, 1)
    np.testing.assert_array_equal(parallel.local_part(parallel.shard(rows, mesh)), rows)


@pytest.fixture
def reference(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return references.make_reference(make_source(101), "train", 16, 2)


@pytest.fixture
def counted(network):
    """An extractor that counts the images it is given."""
    inner = extraction.network_extractor(network, (4, 4, 1), 16)
    seen = []

    def extract(images):
        seen.append(len(images))
        return inner.extract(images)

    return inner._replace(extract=extract), seen


def test_statistics_of_the_data_are_computed_once(reference, counted):
    extractor, seen = counted
    first = references.statistics(reference, extractor)
    assert sum(seen) == 101
    again = references.statistics(reference, extractor)
    assert sum(seen) == 101
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.moments.covariance, again.moments.covariance)
    assert first.score == again.score
    features = jax.jit(apply)(0 * np.ones((2, 3)), reference.source.images).features
    np.testing.assert_allclose(first.moments.mean, features.mean(0), 1e-5)


def test_all_or_some_of_the_data_are_compared_with(reference, counted):
    """Each number has statistics of its own; the halves of the floor are of all."""
    extractor, seen = counted
    some = reference._replace(limit=20)
    assert (reference.num_examples, some.num_examples) == (101, 20)
    assert references.statistics(some, extractor).num == 20
    assert references.statistics(reference, extractor).num == 101
    assert sum(seen) == 20 + 101
    (whole,) = references.floor(reference, extractor, FD, 40).values()
    (part,) = references.floor(some, extractor, FD, 40).values()
    assert part.measured == whole.measured
    ratio = (1 / 40 + 1 / 20) / (1 / 40 + 1 / 101)
    assert part.value / whole.value == pytest.approx(ratio)


@pytest.mark.parametrize(
    "change", [{"split": "test"}, {"content": "other"}, {"name": "other"}]
)
def test_other_data_have_other_statistics(reference, counted, change):
    extractor, seen = counted
    references.statistics(reference, extractor)
    references.statistics(reference._replace(**change), extractor)
    assert sum(seen) == 202


def test_other_images_of_one_name_have_other_statistics(reference, counted):
    other = references.make_reference(make_source(101, seed=1), "train", 16, 2)
    assert other.content != reference.content


def test_other_features_have_other_statistics(reference, counted):
    extractor, seen = counted
    references.statistics(reference, extractor)
    references.statistics(reference, extractor._replace(digest="of other weights"))
    assert sum(seen) == 202


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_damaged_statistics_are_computed_again(reference, counted, damage, tmp_path):
    extractor, seen = counted
    first = references.statistics(reference, extractor)
    (path,) = (tmp_path / "progdist" / "statistics").iterdir()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        with np.load(path) as stored:
            arrays = dict(stored)
        arrays["mean"][0] += 1
        np.savez(path, **arrays)
    else:
        np.savez(path, mean=np.zeros(2))
    again = references.statistics(reference, extractor)
    assert sum(seen) == 202
    np.testing.assert_array_equal(again.moments.mean, first.moments.mean)


def test_the_halves_have_nothing_in_common(reference):
    one, other = (
        references.chosen_indices(reference, which, 40)
        for which in ("one half", "other half")
    )
    assert len(set(one) | set(other)) == 80
    assert set(references.chosen_indices(reference, "all", 0)) == set(range(101))


def test_the_floor_is_of_one_half_to_the_other(reference, counted):
    extractor, seen = counted
    found = references.floor(reference, extractor, FD, 40)
    x = reference.source.images
    halves = [
        np.float64(jax.jit(apply)(np.ones((2, 3)), x[chosen]).features)
        for chosen in (
            references.chosen_indices(reference, which, 40)
            for which in ("one half", "other half")
        )
    ]
    moments = [metrics.Moments(h.mean(0), np.cov(h.T)) for h in halves]
    expected = metrics.frechet_distance(*moments)
    (number,) = found.values()
    assert number.measured == pytest.approx(expected, rel=1e-4)
    assert number.count == 40
    size = len(reference.source)
    share = (1 / 40 + 1 / size) / (1 / 40 + 1 / 40)
    assert number.value == pytest.approx(share * expected, rel=1e-4)
    assert references.floor(reference, extractor, FD, 40) == found
    assert sum(seen) == 80
    assert references.floor(reference, extractor, FD, 9999)["FD-squeezenet"].count == 50


def test_between_images_of_one_kind_the_distance_is_proportional_to_1_n_plus_1_m():
    """Which is what makes a floor of halves one of other numbers of images."""
    x = features.pixel_features(data.open_source("digits").images)
    rng = np.random.default_rng(0)

    def factor(n, m):
        order = rng.permutation(len(x))
        chosen = x[order[:n]], x[order[n : n + m]]
        a, b = (metrics.Moments(each.mean(0), np.cov(each.T)) for each in chosen)
        return metrics.frechet_distance(a, b) / (1 / n + 1 / m)

    means = [
        np.mean([factor(n, m) for _ in range(8)])
        for n, m in ((224, 224), (898, 898), (449, 1348), (112, 1600))
    ]
    np.testing.assert_allclose(means, np.mean(means), rtol=0.08)


def test_a_key_has_one_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = {"a": 1, "b": 2}
    assert array_cache.path_of(references.CACHE, key) == array_cache.path_of(
        references.CACHE, dict(reversed(key.items()))
    )
    assert array_cache.path_of(references.CACHE, key) != array_cache.path_of(
        references.CACHE, {"a": 1, "b": 3}
    )
    references.cached(key, lambda: {"x": np.arange(3)})
    with np.load(
        array_cache.path_of(references.CACHE, key), allow_pickle=False
    ) as stored:
        assert json.loads(str(stored["key"])) == key


def test_more_images_than_a_piece_have_features_in_their_order(network):
    """Of eight devices, which take 32 images each at a time."""
    source = make_source(300)
    extractor = extraction.network_extractor(network, source.image_shape, 300)
    direct = jax.jit(apply)(network.params, source.images)
    found = extractor.extract(source.images)
    for ours, theirs in zip(found, direct, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-5)


def test_the_first_examples_come_from_everywhere(reference):
    first = references.chosen_indices(reference)[:10]
    assert first.min() < 25
    assert first.max() > 75


def test_a_metric_has_no_floor_of_fewer_images_than_it_needs(reference):
    """Precision and recall need four."""
    pixels = extraction.make_extractor("pixels", (4, 4, 1), 16)
    pr = metrics.make_metric("pr")
    assert references.floor(reference, pixels, pr, 3) == {}
    assert set(references.floor(reference, pixels, pr, 4)) == {
        "precision-pixels",
        "recall-pixels",
    }
