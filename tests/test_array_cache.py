import shutil

import numpy as np

from progdist.workdir import array_cache

KEY, OTHER = {"data": "digits", "num": 3}, {"data": "digits", "num": 4}
ARRAYS = {"x": np.arange(6.0), "n": np.array(7)}


def test_arrays_come_back_under_their_key_alone(own_cache):
    array_cache.save("kind", KEY, ARRAYS, "not kept")
    loaded = array_cache.load("kind", dict(reversed(KEY.items())))
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert array_cache.load("kind", OTHER) is None
    assert array_cache.load("another", KEY) is None


def test_a_file_of_another_key_counts_as_missing(own_cache):
    array_cache.save("kind", KEY, ARRAYS, "not kept")
    paths = (array_cache.path_of("kind", key) for key in (KEY, OTHER))
    shutil.copy(*paths)
    assert array_cache.load("kind", OTHER) is None


def test_another_environment_replaces_the_arrays(own_cache):
    one, other = (KEY | {"environment": n} for n in (1, 2))
    array_cache.save("kind", one, ARRAYS, "not kept")
    assert array_cache.load("kind", other) is None
    array_cache.save("kind", other, ARRAYS, "not kept")
    path = array_cache.path_of("kind", other)
    assert array_cache.load("kind", one) is None
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_another_process_writes_is_left(own_cache):
    array_cache.save("kind", KEY, ARRAYS, "not kept")
    path = array_cache.path_of("kind", KEY)
    writing = path.with_name(f".{path.name}.123")
    writing.touch()
    array_cache.remove("kind", KEY)
    assert list(path.parent.iterdir()) == [writing]
    writing.unlink()
    array_cache.remove("kind", KEY)
    assert not path.parent.exists()


def test_a_digest_sees_names_shapes_dtypes_and_values():
    x = np.arange(6, dtype=np.float32)
    cases = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.view(np.int32)}]
    cases += [{"a": x + 1}, {"a": x, "b": x}]
    assert len({array_cache.digest_of(arrays) for arrays in cases}) == len(cases)
