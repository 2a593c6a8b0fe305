"""The nearest training images of samples."""

import contextlib
import os

import numpy as np

from progdist.data import ArraySource
from progdist.evaluate.neighbours import find_nearest, write_nearest
from progdist.evaluate.references import make_reference
from progdist.report.read.neighbours import load_neighbours
from tests.workdirs import images, make_workdir


def by_hand(query: np.ndarray, candidates: np.ndarray) -> tuple[int, float]:
    difference = candidates.astype(float) - query
    distances = np.sqrt((difference**2).mean((1, 2, 3)))
    return int(distances.argmin()), float(distances.min())


def test_the_nearest_image_is_that_of_an_exhaustive_search():
    data, queries = images(0, n=50, shape=(6, 5, 3)), images(1, n=9, shape=(6, 5, 3))
    queries[2] = data[31]
    parts = [(np.arange(i, min(i + 7, 50)), data[i : i + 7]) for i in range(0, 50, 7)]
    found = find_nearest(queries, np.full(9, -1), parts)
    for k, query in enumerate(queries):
        index, distance = by_hand(query, data)
        assert found.indices[k] == index
        np.testing.assert_array_equal(found.images[k], data[index])
        np.testing.assert_allclose(found.distances[k], distance, rtol=1e-6)
    assert found.distances[2] == 0


def test_an_image_is_not_its_own_neighbour():
    data = images(0, n=20)
    found = find_nearest(data, np.arange(20), [(np.arange(20), data)])
    for k in range(20):
        index, distance = by_hand(data[k], np.delete(data, k, axis=0))
        assert found.indices[k] == index + (index >= k)
        np.testing.assert_allclose(found.distances[k], distance, rtol=1e-6)


@contextlib.contextmanager
def silent(title, total):
    yield lambda count: None


def test_a_run_keeps_the_neighbours_of_its_last_students_once(tmp_path):
    make_workdir(tmp_path)
    data = images(7, n=300)
    source = ArraySource("noise", data, np.zeros(300, np.int32))
    reference = make_reference(source, "train", 8, 2)._replace(counting=silent)
    write_nearest(tmp_path, reference)
    found = load_neighbours(tmp_path)
    assert found
    assert (found.num_images, len(found.real), list(found.students)) == (
        300,
        16,
        [4, 1],
    )
    for n, phase in ((4, 2), (1, 4)):
        pairs = found.students[n]
        np.testing.assert_array_equal(pairs.samples, images(phase))
        for sample, near in zip(pairs.samples, pairs.nearest, strict=True):
            np.testing.assert_array_equal(near, data[by_hand(sample, data)[0]])
    is_real = (found.real[:, None] == data[None]).all((2, 3, 4)).any(1)
    assert is_real.all()
    assert len(found.real_distances) == 256
    assert found.real_distances.min() > 0
    path = tmp_path / "samples" / "nearest.npz"
    before = path.stat().st_mtime_ns
    write_nearest(tmp_path, reference)
    assert path.stat().st_mtime_ns == before
    os.utime(tmp_path / "samples" / "phase_04.npz")
    write_nearest(tmp_path, reference)
    assert path.stat().st_mtime_ns > before
