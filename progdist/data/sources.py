"""Opens data by name.

digits: 1,797 handwritten digits of 8x8 pixels, in `digits.npz` next to this module:
the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0), as scikit-learn's
`load_digits` returns it, with its levels 0..16 scaled to 0..255 and rounded.
mnist, fashion_mnist: `progdist.data.idx`. cifar10: `progdist.data.cifar10`. folder:
`progdist.data.folder`. arrays: an .npz file with images (or arr_0) and labels, or an
.npy file of images. tfds: `progdist.data.tfds`. random: noise, to try a configuration
without its data.
"""

import math
from importlib import resources
from typing import get_args

import numpy as np

from progdist.config.settings import ImageShape, LabelRule, Name
from progdist.data.batches import in_memory
from progdist.data.cifar10 import open_cifar10
from progdist.data.idx import open_idx
from progdist.data.source import (
    ArraySource,
    DataError,
    Source,
    check_labels,
    numbered_classes,
)
from progdist.workdir.arrays import read_images
from progdist.workdir.files import expand

# Decoded data up to this size is held in memory, where a batch is one numpy gather.
# CIFAR-10 (150 MB) is held, ImageNet 64x64 (16 GB) is not.
MAX_BYTES_IN_MEMORY = 1 << 30


def open_source(
    name: str,
    split: str = "train",
    dir: str = "",
    tfds_name: str = "",
    image_shape: ImageShape | None = None,
    skip_bad: float = 0.0,
    num_workers: int = 8,
    labels: LabelRule = "auto",
    num_classes: int = 0,
    background: str = "",
    min_size: int = 0,
) -> Source:
    """Opens data; loads it into memory if it is small enough.

    Args:
      name: one of `Name`.
      split: "train" or "test"; for a folder also "validation"; for tfds any split
        expression, as in "train[:1%]".
      dir: directory of the files; for a folder also a zip archive; for arrays the file;
        for cifar10 also the archive, by default downloaded; for tfds the data
        directory, by default TFDS_DATA_DIR or ~/tensorflow_datasets.
      tfds_name: name of the TFDS dataset, as in "cifar10" or "lsun/bedroom".
      image_shape: (height, width, channels). Images of "folder" and "tfds" are cropped
        to the centre and resized to it; those of "random" are generated in it (default
        8x8x3); all others must have it.
      skip_bad: share of a folder's files that may be bad and left out.
      num_workers: number of decoding threads.
      labels: rule for the labels of a folder; see `progdist.data.labels`.
      num_classes: number of classes that the network needs; 0 for any. It is that of
        "random".
      background: colour behind transparent pixels of a folder; "" refuses them.
      min_size: least height and width of a folder's images.

    Raises:
      DataError: if the data is missing, malformed or of another shape.
    """
    match name:
        case "digits":
            source = open_digits(split)
        case "mnist" | "fashion_mnist":
            source = open_idx(name, split, dir)
        case "cifar10":
            source = open_cifar10(split, dir)
        case "random":
            source = make_random(split, image_shape or (8, 8, 3), num_classes or 10)
        case "arrays":
            source = open_arrays(split, dir)
        case "folder":
            # Imported on use, as are the image formats.
            from progdist.data.folder import open_folder
            from progdist.data.images import Rules

            image_shape = _folder_shape(dir, image_shape)
            rules = labels, num_classes, Rules(background, min_size)
            source = open_folder(dir, split, image_shape, skip_bad, num_workers, *rules)
        case "tfds":
            # Imported on use: the reader of TFDS is an optional package.
            from progdist.data.tfds import open_tfds

            source = open_tfds(tfds_name, split, dir, image_shape)
        case _:
            names = ", ".join(get_args(Name))
            raise DataError(f"data.name={name!r} is not one of {names}")
    _check_shape(source, image_shape)
    fits = len(source) * math.prod(source.image_shape) <= MAX_BYTES_IN_MEMORY
    return in_memory(source, num_workers) if fits else source


def _folder_shape(dir: str, image_shape: ImageShape | None) -> ImageShape:
    if not dir or not image_shape:
        raise DataError("data 'folder': set data.dir and data.image_shape")
    return image_shape


def _check_shape(source: Source, image_shape: ImageShape | None) -> None:
    if image_shape not in (None, source.image_shape):
        raise DataError(
            f"data {source.name!r} has images of shape {source.image_shape}, "
            f"but the configuration has {image_shape}"
        )


def open_digits(split: str) -> ArraySource:
    """Opens the 1,797 images of 8x8x1 in the package; the only split is "train"."""
    if split != "train":
        raise DataError(f"data 'digits' has the split 'train' only, not {split!r}")
    path = resources.files("progdist.data") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        image, label = arrays["image"], arrays["label"]
    classes = numbered_classes(10)
    return ArraySource("digits", image, label.astype(np.int32), classes)


def open_arrays(split: str, path: str) -> ArraySource:
    """Opens the images in an .npz or .npy file; the only split is "train".

    Raises:
      DataError: if there is no such file, or its labels are not classes.
      FormatError: if it is not a file of images.
    """
    if split != "train":
        raise DataError(f"data 'arrays' has the split 'train' only, not {split!r}")
    try:
        images, labels = read_images(expand(path))
    except FileNotFoundError:
        raise DataError(f"data.dir={path}: no such file") from None
    if labels is None:
        return ArraySource("arrays", images, np.zeros(len(images), np.int32))
    labels = check_labels(labels, path)
    classes = numbered_classes(int(labels.max()) + 1)
    return ArraySource("arrays", images, labels, classes)


def make_random(
    split: str, image_shape: ImageShape, num_classes: int = 10
) -> ArraySource:
    """Returns 256 images of uniform noise with labels below 10, always the same."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    images = rng.integers(0, 256, (256, *image_shape), np.uint8)
    labels = rng.integers(0, 10, 256, np.int32) % num_classes
    return ArraySource("random", images, labels, numbered_classes(num_classes))
