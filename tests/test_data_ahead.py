"""Batches that threads read ahead are those that would be read one by one."""

import importlib
import threading

import numpy as np
import pytest

from progdist.data import (
    ArraySource,
    Batch,
    DataError,
    Source,
    batches,
    sources,
)
from progdist.data.batches import in_memory
from progdist.data.workers import read_ahead
from tests.originals import image_of
from tests.pictures import encoded, fill, open_folder
from tests.sources import (
    assert_equal,
    numbered,
    open_cifar10,
    unpack_cifar10,
)

# The package's own name for it is the function.
batches_module = importlib.import_module("progdist.data.batches")


class Outside:
    """A source outside memory that knows which threads asked it."""

    name, image_shape, fingerprint = "outside", (2, 2, 1), "1:0"
    num_classes, class_names = 0, ()

    def __init__(self, n):
        self.inner, self.threads = numbered(n), set()

    def __len__(self):
        return len(self.inner)

    def take(self, indices):
        self.threads.add(threading.get_ident())
        return self.inner.take(indices)


def test_threads_keep_the_order(monkeypatch):
    monkeypatch.setattr(batches_module, "PIECE", 3)  # of 7 rows: three pieces
    source = Outside(7)
    assert isinstance(source, Source)
    ahead = batches(source, 1, 2, 60, 7, True, num_workers=3)
    for a, b in zip(ahead, batches(source.inner, 1, 2, 60, 7, True), strict=True):
        assert_equal(a, b)
    assert threading.get_ident() not in source.threads


def test_a_source_in_memory_has_the_same_examples_in_order(monkeypatch):
    monkeypatch.setattr(batches_module, "CHUNK", 4)  # of 9 examples: three chunks
    source = Outside(9)
    held = in_memory(source)
    assert isinstance(held, ArraySource)
    assert held.labels.tolist() == list(range(9))
    assert_equal(held.take(np.arange(9)), source.inner.take(np.arange(9)))
    assert held.images.dtype == np.uint8


def test_no_more_is_read_ahead_than_asked_for():
    begun = []
    items = (begun.append(item) or item for item in range(100))
    ahead = read_ahead(lambda item: item, items, 3)
    for taken in (1, 2, 3):
        next(ahead)
        assert len(begun) == taken + 3
    ahead.close()
    ahead = read_ahead(lambda item: item, items, 1, num_ahead=20)
    next(ahead)
    assert len(begun) == 6 + 21
    ahead.close()


def test_about_two_batches_are_read_ahead():
    # Pieces of 32 rows: one batch is 10, two are 20, and 4 for the threads.
    expected, rows, arrived = 32 * (10 + 20 + 4), [], threading.Event()
    source = Outside(1000)

    def take(indices):
        rows.extend(indices)
        if len(rows) >= expected:
            arrived.set()
        return source.inner.take(indices)

    source.take = take
    ahead = batches(source, 0, 0, 100, 320, False, num_workers=4)
    next(ahead)
    assert arrived.wait(20)
    ahead.close()
    assert len(rows) == expected


# All but the first two are no Exception: nothing else would catch them.
@pytest.mark.parametrize(
    "death", [MemoryError, StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit]
)
def test_the_death_of_a_thread_is_an_error(death):
    source = Outside(10)

    def take(indices):
        if 7 in indices:
            raise death
        return source.inner.take(indices)

    source.take = take
    with pytest.raises(DataError, match=f"reads data failed: {death.__name__}"):
        list(batches(source, 0, 0, 100, 2, False))


def test_an_error_in_a_thread_comes_at_its_place():
    def read(item):
        if item == 3:
            raise DataError("item 3")
        return item

    ahead = read_ahead(read, range(100), 8)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^item 3$"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_closing_drops_what_is_not_begun():
    begun, gate = [], threading.Event()

    def read(item):
        begun.append(item)
        return gate.wait(20) if item else None

    ahead = read_ahead(read, range(1000), 2, num_ahead=900)
    next(ahead)
    threading.Timer(1.0, gate.set).start()  # when closing has begun
    ahead.close()
    assert len(begun) <= 1 + 2 + 2
    assert not [t for t in threading.enumerate() if t.name.startswith("data")]


# --- order, from disk


@pytest.fixture(params=["folder", "tfds"])
def on_disk(request, tmp_path, monkeypatch):
    """Ten images and their labels, decoded as they are read."""
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(batches_module, "PIECE", 2)
    if request.param == "tfds":
        return open_cifar10(unpack_cifar10(tmp_path))
    files = {f"{i % 3}/{i}.png": encoded(image_of(i, 32, 32)) for i in range(10)}
    return open_folder(fill(tmp_path / "images", files), (32, 32, 3))


@pytest.mark.parametrize("start", [0, 7, 1003])
def test_batches_from_disk_are_a_function_of_seed_and_step(on_disk, start):
    held = in_memory(on_disk)
    assert not isinstance(on_disk, ArraySource)
    whole = list(batches(held, 3, start, start + 5, 12, True))
    for processes in (1, 2, 4):
        size = 12 // processes
        rows = [slice(i * size, (i + 1) * size) for i in range(processes)]
        each = [
            batches(on_disk, 3, start, start + 5, 12, True, rows, num_workers=2)
            for rows in rows
        ]
        for expected, *parts in zip(whole, *each, strict=True):
            assert_equal(
                expected, Batch(*map(np.concatenate, zip(*parts, strict=True)))
            )


def test_an_epoch_from_disk_has_every_image_once(on_disk):
    seen = [b.image.tobytes() for b in batches(on_disk, 0, 20, 40, 1, False)]
    assert len(set(seen[:10])) == 10
    assert set(seen[:10]) == set(seen[10:])
    assert seen[:10] != seen[10:]
