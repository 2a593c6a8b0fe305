"""Order, ranges, formats: which image stands where, and what happens to its pixels."""

import gzip
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from progdist.data import (
    ArraySource,
    Batch,
    DataError,
    batch_at,
    batches,
    from_uint8,
    open_source,
    order,
    spread_indices,
    to_uint8,
)
from progdist.data.idx import read_idx
from progdist.data.order import (
    examples_at,
    flips_at,
    permutation,
    positions_at,
    splitmix64,
)
from tests.originals import image_of
from tests.sources import assert_equal, numbered

seeds = st.integers(0, 2**32)
sizes = st.integers(1, 40)


# --- order


def test_splitmix64_matches_its_published_values():
    # Seed 1234567, as in the vectors used by the ports of the reference C code.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(np.uint64(1234567), np.arange(5)).tolist() == expected


@given(seed=seeds, n=sizes, batch_size=st.integers(1, 100), start=st.integers(0, 50))
def test_every_example_once_an_epoch(seed, n, batch_size, start):
    # Any n positions that start at a multiple of n are one epoch, however batched.
    epochs = range(start, start + 2)
    steps = range(0, (epochs.stop * n) // batch_size + 1)
    positions = np.concatenate([positions_at(step, batch_size) for step in steps])
    examples = examples_at(seed, positions, n)
    for epoch in epochs:
        assert sorted(examples[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(seed=seeds, n=sizes, batch=st.integers(1, 12), step=st.integers(0, 10**6))
@settings(deadline=None)
def test_rows_of_1_2_or_4_hosts_concatenate_to_the_global_batch(seed, n, batch, step):
    whole = batch_at(numbered(n), seed, step, 4 * batch, True)
    for hosts in (1, 2, 4):
        size = 4 * batch // hosts
        rows = [slice(i * size, (i + 1) * size) for i in range(hosts)]
        parts = [batch_at(numbered(n), seed, step, 4 * batch, True, r) for r in rows]
        assert_equal(whole, Batch(*map(np.concatenate, zip(*parts, strict=True))))


def test_resuming_mid_epoch_equals_not_stopping():
    source = numbered(10)
    whole = list(batches(source, 3, 0, 20, 4, True))
    for stop in (1, 7, 19):
        first = list(batches(source, 3, 0, stop, 4, True))
        then = list(batches(source, 3, stop, 20, 4, True))
        for a, b in zip(whole, first + then, strict=True):
            assert_equal(a, b)


def test_epochs_and_seeds_have_different_orders():
    orders = {
        tuple(examples_at(seed, positions_at(epoch, 50), 50))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_permutation_is_uniform():
    # Each of 4 examples stands first in a quarter of 4,000 epochs: 1,000 +- 5 sigma.
    first = [permutation(0, epoch, 4)[0] for epoch in range(4000)]
    counts = np.bincount(first, minlength=4)
    assert abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_the_cached_permutation_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        permutation(0, 0, 5)[0] = 1


def test_threads_sort_an_epoch_once(monkeypatch):
    calls, stream = [], order.stream
    monkeypatch.setattr(order, "stream", lambda *a: calls.append(a) or stream(*a))
    with ThreadPoolExecutor(8) as pool:
        orders = list(pool.map(lambda _: permutation(17, 5, 300_000), range(8)))
    assert len(calls) == 1
    assert all(each is orders[0] for each in orders)


# --- flips


def test_half_of_the_images_are_flipped():
    flips = flips_at(0, np.arange(10_000))
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(10_000)


def test_flips_do_not_follow_the_example_or_the_order():
    # The same example in 2,000 epochs: flipped in half of them.
    source = numbered(1)
    left = [
        batch_at(source, 0, step, 1, True).image[0, 0, 0, 0] for step in range(2000)
    ]
    assert abs(np.mean(left)) < 5 / np.sqrt(2000)


def test_a_flip_mirrors_columns_and_nothing_else():
    image = image_of(1, 4, 6)[None]
    source = ArraySource("one", image, np.zeros(1, np.int32))
    plain = batch_at(source, 0, 0, 64, False).image
    flipped = batch_at(source, 0, 0, 64, True).image
    mirror = flips_at(0, positions_at(0, 64))
    assert 0 < mirror.sum() < 64
    np.testing.assert_array_equal(flipped[~mirror], plain[~mirror])
    np.testing.assert_array_equal(flipped[mirror][:, :, ::-1], plain[mirror])
    np.testing.assert_array_equal(source.images, image)  # the source is untouched


# --- pixels


def test_uint8_round_trip_is_exact_and_covers_the_range():
    levels = np.arange(256, dtype=np.uint8)
    x = from_uint8(levels)
    assert (x.dtype, x[0], x[-1]) == (np.float32, -1.0, 1.0)
    assert (np.abs(x) <= 1).all()
    np.testing.assert_array_equal(to_uint8(x), levels)


def test_to_uint8_rounds_to_nearest_and_clips():
    x = np.array([-7.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1 - 0.49 / 127.5, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 1, 255, 255]


def test_batches_are_float32_in_range_and_int32():
    image, label = batch_at(open_source("random"), 0, 5, 32, True)
    assert (image.dtype, label.dtype) == (np.float32, np.int32)
    assert image.min() >= -1
    assert image.max() <= 1


# --- sources


def test_digits_are_the_published_ones():
    source = open_source("digits")
    assert (len(source), source.image_shape, source.num_classes) == (
        1797,
        (8, 8, 1),
        10,
    )
    _, label = source.take(np.arange(1797))
    # Class counts as in the description of the data set.
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(label).tolist() == counts
    # The first image as scikit-learn prints it, in levels 0..16.
    row = np.array([0, 0, 5, 13, 9, 1, 0, 0])
    first = source.take(np.array([0])).image[0, 0, :, 0]
    np.testing.assert_array_equal(first, np.rint(row * 255 / 16))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_random_images_are_the_same_on_every_call(shape):
    a, b = (open_source("random", image_shape=shape) for _ in range(2))
    assert a.image_shape == shape
    assert_equal(a.take(np.arange(9)), b.take(np.arange(9)))
    test = open_source("random", "test", image_shape=shape)
    assert (test.take(np.arange(9)).image != a.take(np.arange(9)).image).any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "mnits"}, "mnits.*digits, mnist"),
        ({"name": "digits", "split": "test"}, "digits.*train"),
        ({"name": "digits", "image_shape": (28, 28, 1)}, r"\(8, 8, 1\).*\(28, 28, 1\)"),
        ({"name": "mnist"}, "data.dir"),
        ({"name": "mnist", "dir": "/nowhere"}, "/nowhere.*data.dir"),
        ({"name": "mnist", "split": "validation"}, "train and test"),
        ({"name": "fashion_mnist", "dir": "/nowhere"}, "dataset-fashion-mnist"),
        ({"name": "tfds", "tfds_name": "../etc"}, "tfds_name.*NAME/CONFIG"),
        (
            {"name": "tfds", "tfds_name": "cifar10"},
            "run progdist prepare cifar10 --dir=/",
        ),
        ({"name": "tfds", "tfds_name": "lsun/tower"}, "lsun/tower --image_size=SIZE"),
        (
            {"name": "tfds", "tfds_name": "lsun/tower", "image_shape": (128, 128, 3)},
            "--image_size=128",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, says, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=says) as error:
        open_source(**arguments)
    assert "\n" not in str(error.value)


# --- idx

IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003") + bytes(range(12))
LABELS = bytes.fromhex("00000801 00000002") + bytes([7, 3])


def test_golden_bytes_of_mnist(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(IMAGES)
    with gzip.open(tmp_path / "t10k-labels-idx1-ubyte.gz", "wb") as file:
        file.write(LABELS)
    source = open_source("mnist", "test", str(tmp_path))
    image, label = source.take(np.array([1, 0]))
    assert image[..., 0].tolist() == [[[6, 7, 8], [9, 10, 11]], [[0, 1, 2], [3, 4, 5]]]
    assert label.tolist() == [3, 7]


@pytest.mark.parametrize(
    "names",
    [
        ("train-images.idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte/train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
    ],
)
def test_idx_files_of_an_archive_lie_in_directories_below_home(
    names, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, content in zip(names, (IMAGES, LABELS), strict=True):
        path = tmp_path / "mnist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert len(open_source("mnist", "train", "~/mnist")) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first bytes are none"),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], "not an IDX file of uint8"),
        (LABELS, "3 dimensions"),
        (IMAGES[:9], "ends within its header"),
        (IMAGES[:-1], "announces 12 values, the file holds only 11"),
        (IMAGES + b"x", "holds more"),
        (IMAGES[:4] + b"\xff" * 12, "outside"),
        (IMAGES[:4] + b"\x00" * 12, "outside"),
        (gzip.compress(IMAGES, mtime=0), "not an IDX file"),
    ],
)
def test_a_damaged_idx_file_is_named(content, says, tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}.*{says}") as error:
        read_idx(path, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:20] + b"?" + b[21:]])
def test_a_damaged_gzip_file_is_named(damage, tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(IMAGES, mtime=0)))
    with pytest.raises(DataError, match=str(path)):
        read_idx(path, 3)


def test_images_and_labels_must_agree(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(IMAGES)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(bytes.fromhex("00000801 00000003 010203"))
    with pytest.raises(DataError, match="2 train images, 3 labels"):
        open_source("mnist", dir=str(tmp_path))
    path.write_bytes(bytes.fromhex("00000801 00000002 010a"))
    with pytest.raises(DataError, match="label is 10"):
        open_source("mnist", dir=str(tmp_path))


def test_evenly_spaced_examples_come_from_everywhere():
    np.testing.assert_array_equal(spread_indices(10, 5), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(spread_indices(7, 7), range(7))
    np.testing.assert_array_equal(spread_indices(8, 3), [0, 2, 5])


def test_batches_of_a_source_in_memory_are_the_rows_of_a_process():
    source, rows = numbered(10), slice(2, 4)
    ours = list(batches(source, 5, 3, 6, 4, True, rows))
    assert len(ours) == 3
    for step, batch in zip(range(3, 6), ours, strict=True):
        assert_equal(batch, batch_at(source, 5, step, 4, True, rows))


def test_order_and_flips_have_random_bits_of_their_own():
    """A flip would otherwise tell how early in the epoch an example comes."""
    counter = np.arange(64)
    streams = [order.stream(3, "order"), order.stream(3, "flip")]
    streams += [order.stream(3, "order", 1), order.stream(4, "order")]
    bits = np.stack([splitmix64(start, counter) for start in streams])
    assert len(np.unique(bits)) == bits.size
    flips = flips_at(3, counter)
    for row in bits[[0, 2, 3]]:
        assert not np.array_equal(flips, row >> np.uint64(63))
