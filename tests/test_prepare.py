"""Originals -> TFDS's own builders -> array_record -> the reader."""

import numpy as np
import pytest

from progdist.data import DataError, open_source
from tests import originals

pytestmark = pytest.mark.slow
CIFAR10 = "cifar-10-binary.tar.gz"


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
    """Where archives are put; their checksums then count as the published ones."""
    for module in ("tensorflow_datasets", "tensorflow", "importlib_resources", "lmdb"):
        pytest.importorskip(module, reason="needs the extra `prepare`")
    from tensorflow_datasets.core.download import checksums, download_manager

    path = tmp_path / "downloads" / "manual"
    path.mkdir(parents=True)
    known = download_manager.DownloadManager.__init__

    def trusting(self, **kwargs):
        known(self, **kwargs)
        for url, info in self._url_infos.items():
            if info.filename and (path / info.filename).exists():
                self._url_infos[url] = checksums.compute_url_info(path / info.filename)

    monkeypatch.setattr(download_manager.DownloadManager, "__init__", trusting)
    return path


def prepare(tfds_name, dir, image_size=0):
    from progdist.data.prepare import prepare

    return prepare(tfds_name, str(dir), image_size)


def read(tfds_name, dir, split="train", image_shape=None):
    source = open_source("tfds", split, str(dir), tfds_name, image_shape)
    return source, source.take(np.arange(len(source)))


def test_cifar10(manual_dir, tmp_path):
    originals.write_cifar10(manual_dir / CIFAR10)
    prepare("cifar10", tmp_path)
    for split, count in (("train", 10), ("test", 2)):
        source, batch = read("cifar10", tmp_path, split)
        assert (len(source), source.num_classes) == (count, 10)
        assert sorted(batch.label) == list(range(count))
        for image, label in zip(*batch, strict=True):
            np.testing.assert_array_equal(image, originals.image_of(label, 32, 32))


def test_imagenet_resized_has_the_labels_of_imagenet(manual_dir, tmp_path):
    for part, labels in (("train_part1", [0, 1]), ("train_part2", [2]), ("val", [3])):
        name = f"Imagenet64_{part}_npz.zip"
        originals.write_imagenet_resized(manual_dir / name, labels)
    prepare("imagenet_resized/64x64", tmp_path)
    source, batch = read("imagenet_resized/64x64", tmp_path)
    assert (len(source), source.num_classes) == (3, 1000)
    # In that archive 0, 1, 2 are n02119789, n02100735, n02110185: kit fox, English
    # setter, Siberian husky; in ImageNet's order these are 278, 212, 250.
    ranks = {0: 278, 1: 212, 2: 250}
    images = {rank: originals.image_of(label, 64, 64) for label, rank in ranks.items()}
    assert set(batch.label.tolist()) == set(images)
    for image, label in zip(*batch, strict=True):
        np.testing.assert_array_equal(image, images[int(label)])


def test_imagenet2012_is_cropped_and_resized(manual_dir, tmp_path):
    labels = {"n01440764": 0, "n01443537": 1, "n01484850": 2}
    originals.write_imagenet2012(manual_dir, labels)
    path = prepare("imagenet2012", tmp_path, 64)
    assert path.parent.name == "imagenet2012_resized64"
    source, batch = read("imagenet2012", tmp_path, image_shape=(64, 64, 3))
    assert (source.image_shape, source.num_classes) == ((64, 64, 3), 1000)
    assert sorted(batch.label) == [0, 1, 2]
    for image, label in zip(*batch, strict=True):
        middle = originals.smooth_image_of(int(label), 96, 160)[:, 32:128]
        expected = middle.astype(float).mean((0, 1))
        np.testing.assert_allclose(image.mean((0, 1)), expected, atol=1.5)


def test_lsun_is_read_without_tensorflow_io(manual_dir, tmp_path):
    for split, labels in (("train", [0, 1, 2]), ("val", [3])):
        name = f"church_outdoor_{split}_lmdb.zip"
        originals.write_lsun(manual_dir / name, labels)
    prepare("lsun/church_outdoor", tmp_path, 128)
    source, batch = read("lsun/church_outdoor", tmp_path, image_shape=(128, 128, 3))
    assert (len(source), source.num_classes) == (3, 0)
    assert not batch.label.any()
    means = sorted(image.mean() for image in batch.image)
    crops = [originals.smooth_image_of(i, 300, 256)[22:278] for i in range(3)]
    np.testing.assert_allclose(means, [crop.mean() for crop in crops], atol=1.5)


def test_lsun_without_a_size_is_refused(manual_dir, tmp_path):
    with pytest.raises(DataError, match="--image_size"):
        prepare("lsun/church_outdoor", tmp_path)


def test_a_damaged_archive_is_one_line_that_names_it(manual_dir, tmp_path, monkeypatch):
    monkeypatch.undo()
    originals.write_cifar10(manual_dir / CIFAR10)
    with pytest.raises(DataError, match=rf"{CIFAR10}.*checksum") as error:
        prepare("cifar10", tmp_path)
    assert "\n" not in str(error.value)
