"""Distances against other ways to compute them, on the same features."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.special

from progdist.evaluate import extraction, features as networks, metrics
from progdist.evaluate.features import inception
from progdist.evaluate.features.networks import inception_network
from progdist.evaluate.metrics import Collector, Moments, Running, RunningScores
from tests import toy


def random_moments(seed, d=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    return Moments(rng.normal(size=d), root @ root.T)


def test_frechet_distance_of_diagonal_gaussians():
    a = Moments(np.array([0.0, 1.0]), np.diag([1.0, 4.0]))
    b = Moments(np.array([2.0, 1.0]), np.diag([9.0, 4.0]))
    assert metrics.frechet_distance(a, b) == pytest.approx(4 + (1 - 3) ** 2)


def test_frechet_distance_equals_the_form_with_a_matrix_root():
    a, b = random_moments(0), random_moments(1)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(
        a.covariance + b.covariance - 2 * root
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_a_distance():
    a, b = random_moments(0), random_moments(1)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    ab, ba = metrics.frechet_distance(a, b), metrics.frechet_distance(b, a)
    assert ab == pytest.approx(ba, rel=1e-9)


def test_frechet_distance_of_singular_covariances():
    a = Moments(np.zeros(3), np.diag([1.0, 0.0, 0.0]))
    b = Moments(np.zeros(3), np.diag([0.0, 4.0, 0.0]))
    assert metrics.frechet_distance(a, b) == pytest.approx(5)


def pixel_moments(*batches, **settings):
    running = Running()
    for images in batches:
        running.add(networks.pixel_features(images, **settings))
    return running.result()


def test_moments_in_pieces_are_those_of_the_whole():
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 3, 1), np.uint8)
    moments = pixel_moments(images[:20], images[20:])
    x = images.reshape(50, -1) / 127.5 - 1
    np.testing.assert_allclose(moments.mean, x.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), atol=1e-12)


def test_large_images_are_averaged_over_squares_and_named_for_it():
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    squares = images.astype(float).reshape(9, 4, 2, 4, 2).mean((2, 4))
    expected = squares.reshape(9, 16) / 127.5 - 1
    moments = pixel_moments(images, max_side=4)
    np.testing.assert_allclose(moments.mean, expected.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(expected.T), atol=1e-12)
    thin = np.random.default_rng(0).integers(0, 256, (9, 1, 64, 3), np.uint8)
    pairs = thin.astype(float).reshape(9, 32, 2, 3).mean(2).reshape(9, 96) / 127.5 - 1
    np.testing.assert_allclose(networks.pixel_features(thin), pairs, atol=1e-12)
    assert networks.pixel_features(np.zeros((1, 100, 2, 1), np.uint8)).shape == (1, 25)
    assert networks.pixels_label((8, 8, 1)) == "pixels"
    assert networks.pixels_label((28, 28, 1)) == "pixels"
    assert networks.pixels_label((64, 64, 3)) == "pixels32"
    assert networks.pixels_label((128, 128, 3)) == "pixels32"


OTHERS = "KID", "IS", "precision", "recall"


def features(num, d=5, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(shift, 1, (num, d)) * np.arange(1, d + 1)).astype(np.float32)


def test_frechet_distance_of_singular_covariances_is_exact():
    """Fewer images than features: C_a C_b is singular, and its roots lose digits."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 60)))[0]
    a, b = np.zeros(60), np.zeros(60)
    a[:20], b[10:30] = np.logspace(-8, 2, 20), np.logspace(1, -9, 20)
    one, other = (Moments(np.zeros(60), (basis * v) @ basis.T) for v in (a, b))
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_sums_of_parts_are_those_of_the_whole():
    x = features(100, shift=1000.0)
    parts = [Running() for _ in range(3)]
    for i, part in enumerate(parts):
        for first in range(i, 100, 21):
            part.add(x[first : first + 7 * (i != 1)])
    whole, seen = parts[0].merge(parts[1]).merge(parts[2]), []
    for i in range(3):
        seen += [x[first : first + 7 * (i != 1)] for first in range(i, 100, 21)]
    seen = np.concatenate(seen).astype(np.float64)
    assert whole.count == len(seen)
    moments = whole.result()
    np.testing.assert_allclose(moments.mean, seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(seen.T), rtol=1e-9)
    with pytest.raises(ValueError, match="moments of 0 features"):
        Running().result()


def test_kernel_distance_is_the_mean_over_subsets():
    x, y = features(50), features(60, seed=1, shift=0.2)
    rng, expected = np.random.RandomState(3), []
    for _ in range(7):
        a = x[rng.choice(50, 20, replace=False)].astype(float)
        b = y[rng.choice(60, 20, replace=False)].astype(float)
        kernels = [(u @ v.T / 5 + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
        pairs = [k[~np.eye(20, dtype=bool)].mean() for k in kernels[:2]]
        expected.append(sum(pairs) - 2 * kernels[2].mean())
    found = metrics.kernel_distance(x, y, subsets=7, size=20, seed=3)
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-9)
    assert found.std == pytest.approx(np.std(expected), rel=1e-9)
    assert metrics.kernel_distance(x, y).size == 50
    with pytest.raises(ValueError, match="at least 2 features"):
        metrics.kernel_distance(x[:1], y)


def test_kernel_distance_does_not_depend_on_its_blocks(monkeypatch):
    x, y = features(50), features(60, seed=1, shift=0.2)
    whole = metrics.kernel_distance(x, y, 5, 20)
    monkeypatch.setattr(metrics.kernel, "_BLOCK", 7)
    assert metrics.kernel_distance(x, y, 5, 20).mean == pytest.approx(whole.mean, 1e-9)


def test_precision_and_recall_are_counts_of_points_in_balls(monkeypatch):
    monkeypatch.setattr(metrics.neighbours, "_BLOCK", 7)
    x, y = features(40, d=2), features(50, d=2, seed=1, shift=1.5)
    found = metrics.precision_recall(x, y)
    for value, points, centres in ((found.precision, x, y), (found.recall, y, x)):
        among = scipy.spatial.distance.cdist(centres, centres)
        radii = np.sort(among, axis=1)[:, 3]
        inside = scipy.spatial.distance.cdist(points, centres) <= radii
        assert value == pytest.approx(inside.any(1).mean())
        assert 0.1 < value < 1
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    assert metrics.precision_recall(x, x + 1000) == (0.0, 0.0)
    with pytest.raises(ValueError, match="more than 3 features"):
        metrics.precision_recall(x[:3], y)


def test_the_inception_score_is_that_of_the_whole_shuffled_sets():
    """As its definition, and torch-fidelity, compute it from all scores at once."""
    logits = 3 * features(105, d=6)
    order = np.random.RandomState(2020).permutation(105)
    p = scipy.special.softmax(logits[order].astype(float), axis=1)
    scores = []
    for i in range(10):
        part = p[i * 105 // 10 : (i + 1) * 105 // 10]
        kl = (part * np.log(part / part.mean(0))).sum(1)
        scores.append(np.exp(kl.mean()))
    running = RunningScores(105, 6)
    for first in range(0, 105, 8):
        numbers = np.arange(first, min(first + 8, 105))
        running.add(numbers, logits[numbers])
    mean, std = running.result()
    assert mean == pytest.approx(np.mean(scores), rel=1e-9)
    assert std == pytest.approx(np.std(scores), rel=1e-9)
    with pytest.raises(ValueError, match="10 splits of 9 images"):
        RunningScores(9, 6)


def test_statistics_do_not_depend_on_who_saw_what():
    x, logits = features(40), features(40, d=3, seed=2)

    def gather(shares, keep=30):
        parts = []
        for share in shares:
            collector = Collector(40, 5, 3, metrics.Needs(keep, True))
            for numbers in np.array_split(np.asarray(share, int), 3):
                collector.add(numbers, x[numbers], logits[numbers])
            parts.append(collector.sums())
        return metrics.merge(40, parts)

    alone = gather([range(40)])
    order = np.random.default_rng(0).permutation(40)
    shared = gather([order[:11], order[11:38], order[38:], []])
    np.testing.assert_array_equal(alone.vectors, x[:30])
    np.testing.assert_array_equal(shared.vectors, x[:30])
    np.testing.assert_allclose(shared.moments.mean, x.mean(0), 1e-5)
    for name in ("mean", "covariance"):
        one, other = (getattr(s.moments, name) for s in (alone, shared))
        np.testing.assert_allclose(one, other, 1e-9, 1e-9)
    np.testing.assert_allclose(alone.score, shared.score, 1e-9)
    with pytest.raises(ValueError, match="features of 30 images, expected 40"):
        gather([range(30)])


def gaussian_features(num, d, seed, rank=None):
    """Features whose variances span six orders, in at most `rank` directions."""
    rng = np.random.default_rng(seed)
    rank = rank or d
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0][:, :rank]
    x = rng.normal(size=(num, rank)) * np.logspace(-3, 0, rank)
    return x @ basis.T + rng.normal(size=d)


def statistics_of(x, shares=1):
    parts = []
    for share in np.array_split(np.random.default_rng(0).permutation(len(x)), shares):
        collector = Collector(len(x), x.shape[1], needs=metrics.Needs(4))
        for numbers in np.array_split(share, 3):
            collector.add(numbers, x[numbers])
        parts.append(collector.sums())
    return metrics.merge(len(x), parts)


@pytest.mark.parametrize(("n", "m"), [(30, 40), (30, 700), (700, 30), (700, 650)])
def test_few_images_have_the_distance_of_their_covariances(n, m):
    """Of 600 features, also gathered by two processes."""
    x, y = gaussian_features(n, 600, 0), gaussian_features(m, 600, 1, rank=50)
    dense = [Moments(f.mean(0), np.cov(f.T)) for f in (x, y)]
    expected = metrics.frechet_distance(*dense)
    for shares in (1, 2):
        ours = [statistics_of(f, shares) for f in (x, y)]
        found = metrics.frechet_distance(*(s.moments for s in ours))
        assert found == pytest.approx(expected, rel=1e-9)
        np.testing.assert_array_equal(ours[0].vectors, np.float32(x[:4]))
    few = [isinstance(s.moments, metrics.ThinMoments) for s in ours]
    assert few == [n < 600, m < 600]


def test_the_distance_of_few_images_is_that_of_the_closed_form():
    """Of two points each, along one axis, and along orthogonal ones."""
    x, y = np.zeros((2, 600)), np.zeros((2, 600))
    x[:, 0], y[:, 0] = (-1, 1), (1, 7)  # variances 2 and 18, means 0 and 4
    one, other, across = (metrics.ThinMoments.of(f) for f in (x, y, np.roll(x, 1, 1)))
    expected = 16 + (np.sqrt(18) - np.sqrt(2)) ** 2
    assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert metrics.frechet_distance(one, across) == pytest.approx(2 + 2, rel=1e-12)
    with pytest.raises(ValueError, match="moments of 1 features"):
        metrics.ThinMoments.of(x[:1])


def test_what_is_kept_is_bounded():
    few = Collector(10**9, 3, 1000, metrics.Needs(20, False)).sums()
    assert sum(array.nbytes for array in few.values()) < 1000
    sums = Collector(599, 600, needs=metrics.Needs()).sums()  # of the features alone
    assert sum(array.nbytes for array in sums.values()) <= 600 * 600 * 8
    fd, pr, score = (metrics.make_metric(name) for name in ("fd", "pr", "is"))
    assert metrics.combined_needs([fd]) == metrics.Needs(0, False)
    assert metrics.combined_needs([fd, pr, score]) == metrics.ALL


@pytest.mark.parametrize(
    ("features_name", "names"),
    [
        ("inception", ["FID", "KID", "IS", "precision", "recall"]),
        (
            "inception_tf1",
            [f"{n}-tf1" for n in ("FID", "KID", "IS", "precision", "recall")],
        ),
        (
            "pixels",
            [f"{n}-pixels32" for n in ("FD", "KID", "IS", "precision", "recall")],
        ),
    ],
)
def test_fid_is_of_the_inception_alone(features_name, names):
    extractor = extraction.make_extractor("pixels", (64, 64, 3), 1)
    if features_name != "pixels":
        net = inception.Inception({}, np.zeros((2, 3), np.float32))
        network = inception_network(net, features_name)
        extractor = extractor._replace(suffix=network.suffix, frechet=network.frechet)
    x = features(40)
    statistics = metrics.Statistics(40, Moments(x.mean(0), np.cov(x.T)), x, (2.0, 0.1))
    found = {}
    for name in ("fd", "kid", "is", "pr"):
        metric = metrics.make_metric(name)
        values = metric.values(statistics, statistics)
        for title, value in zip(metric.titles, values, strict=True):
            found[extractor.metric_name(title)] = value[0]
    assert list(found) == names
    assert found[names[0]] == pytest.approx(0, abs=1e-6)
    assert found[names[2]] == 2.0
    with pytest.raises(ValueError, match="metric: 'lpips' is not one of"):
        toy.unchecked(metrics.make_metric)("lpips")


def test_the_constants_are_those_of_torch_fidelity():
    """Version 0.4.0: kid_subsets, kid_subset_size, rng_seed, isc_splits."""
    x, y = (np.random.default_rng(k).normal(size=(1010, 2)) for k in (0, 1))
    kid = metrics.kernel_distance(x, y)
    assert (kid.subsets, kid.size) == (100, 1000)
    few = metrics.kernel_distance(x[:20], y[:30], subsets=3, size=5)
    rng, expected = np.random.RandomState(2020), []
    for _ in range(3):
        a = x[rng.choice(20, 5, replace=False)]
        b = y[rng.choice(30, 5, replace=False)]
        kernels = [(u @ v.T / 2 + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
        pairs = [k[~np.eye(5, dtype=bool)].mean() for k in kernels[:2]]
        expected.append(sum(pairs) - 2 * kernels[2].mean())
    assert few.mean == pytest.approx(np.mean(expected), rel=1e-9)


def test_frechet_distance_sees_directions_of_small_variance():
    """Of deviations 3e-5 and 6e-5, one direction in two."""
    a, b = (
        Moments(np.zeros(2), np.diag([1.0, deviation**2])) for deviation in (3e-5, 6e-5)
    )
    assert metrics.frechet_distance(a, b) == pytest.approx(9e-10, abs=1e-14)
