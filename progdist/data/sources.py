"""Opens data by name.

digits: 1,797 handwritten digits of 8x8 pixels, in `digits.npz` next to this module:
the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0), as scikit-learn's
`load_digits` returns it, with its levels 0..16 scaled to 0..255 and rounded.
mnist, fashion_mnist: `progdist.data.idx`. folder: `progdist.data.folder`. tfds:
`progdist.data.tfds`. random: noise, to try a configuration without its data.
"""

import math
from importlib import resources
from typing import get_args

import numpy as np

from progdist.data.batches import in_memory
from progdist.data.idx import open_idx
from progdist.data.settings import ImageShape, Name
from progdist.data.source import ArraySource, DataError, Source

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
    background: str = "",
    min_size: int = 0,
) -> Source:
    """Opens data; loads it into memory if it is small enough.

    Args:
      name: one of `Name`.
      split: "train" or "test"; for a folder also "val" or "validation"; for tfds any
        split expression, as in "train[:1%]".
      dir: directory of the files; for tfds the data directory, by default
        TFDS_DATA_DIR or ~/tensorflow_datasets.
      tfds_name: name of the TFDS dataset, as in "cifar10" or "lsun/bedroom".
      image_shape: (height, width, channels). Images of "folder" and "tfds" are cropped
        to the centre and resized to it; those of "random" are generated in it (default
        8x8x3); all others must have it.
      skip_bad: share of a folder's files that may be bad and left out.
      num_workers: number of decoding threads.
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
        case "random":
            source = make_random(split, image_shape or (8, 8, 3))
        case "folder":
            # Imported on use, as are the image formats.
            from progdist.data.folder import open_folder
            from progdist.data.images import Rules

            if not dir or not image_shape:
                raise DataError("data 'folder': set data.dir and data.image_shape")
            rules = Rules(background, min_size)
            source = open_folder(dir, split, image_shape, skip_bad, num_workers, rules)
        case "tfds":
            # Imported on use: the reader of TFDS is an optional package.
            from progdist.data.tfds import open_tfds

            source = open_tfds(tfds_name, split, dir, image_shape)
        case _:
            names = ", ".join(get_args(Name))
            raise DataError(f"data.name={name!r} is not one of {names}")
    if image_shape not in (None, source.image_shape):
        raise DataError(
            f"data {name!r} has images of shape {source.image_shape}, "
            f"but the configuration has {image_shape}"
        )
    fits = len(source) * math.prod(source.image_shape) <= MAX_BYTES_IN_MEMORY
    return in_memory(source, num_workers) if fits else source


def open_digits(split: str) -> ArraySource:
    """Opens the 1,797 images of 8x8x1 in the package; the only split is "train"."""
    if split != "train":
        raise DataError(f"data 'digits' has the split 'train' only, not {split!r}")
    path = resources.files("progdist.data") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        image, label = arrays["image"], arrays["label"]
    return ArraySource("digits", image, label.astype(np.int32), 10)


def make_random(split: str, image_shape: ImageShape) -> ArraySource:
    """Returns 256 images of uniform noise with labels 0..9, always the same."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    images = rng.integers(0, 256, (256, *image_shape), np.uint8)
    labels = rng.integers(0, 10, 256, np.int32)
    return ArraySource("random", images, labels, 10)
