"""Opens data by name.

digits: 1,797 handwritten digits of 8x8 pixels, in `digits.npz` beside this module:
the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak,
UCI Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0), as scikit-learn's
`load_digits` gives it, with its levels 0..16 scaled to 0..255 and rounded.
mnist, fashion_mnist: IDX files from a directory. folder: `progdist.data.folder`. tfds:
`progdist.data.tfds`. random: made images, to try a configuration without its data.
"""

import math
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from progdist.data.batches import in_memory
from progdist.data.idx import read_idx
from progdist.data.source import ArraySource, DataError, Source

Name = Literal["digits", "mnist", "fashion_mnist", "folder", "tfds", "random"]
ImageShape = tuple[int, int, int]

# Decoded data up to this size is held in memory, where a batch is one numpy gather:
# CIFAR-10 is (150 MB), ImageNet 64x64 is not (16 GB).
MAX_BYTES_IN_MEMORY = 1 << 30
FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"
_IDX_PREFIX = {"train": "train", "test": "t10k"}
_HINTS = {
    "mnist": "set data.dir to a directory with the four MNIST idx files",
    "fashion_mnist": "install Debian's dataset-fashion-mnist, or set data.dir to a "
    "directory with its four idx files",
}


def open_source(
    name: str,
    split: str = "train",
    dir: str = "",
    tfds_name: str = "",
    image_shape: ImageShape | None = None,
    skip_bad: float = 0.0,
    num_workers: int = 8,
) -> Source:
    """Opens the data `name`; what is not too large is held in memory.

    Args:
      name: one of `Name`.
      split: "train" or "test"; of a folder "val" or "validation", too; for tfds any
        split that TFDS reads, as in "train[:1%]".
      dir: directory of the files, or the TFDS data directory.
      tfds_name: dataset of TFDS, as in "cifar10"; for name "tfds" only.
      image_shape: (height, width, channels) that is wanted. For "folder" and "tfds"
        images are cropped to the centre and resized to it, for "random" it is the
        size to make (default 8x8x3); for the others it must be what they have.
      skip_bad: share of a folder's files that may be bad, and are then left out.
      num_workers: threads that decode.

    Raises:
      DataError: if the data is not there, is malformed or has another shape.
    """
    match name:
        case "digits":
            source = open_digits(split)
        case "mnist" | "fashion_mnist":
            source = open_idx(name, split, dir)
        case "random":
            source = make_random(split, image_shape or (8, 8, 3))
        case "folder":
            source = _open_folder(dir, split, image_shape, skip_bad, num_workers)
        case "tfds":
            # Imported where it is used: the reader of TFDS is an optional package.
            from progdist.data.tfds import open_tfds

            source = open_tfds(tfds_name, split, dir, image_shape)
        case _:
            known = ", ".join(get_args(Name))
            raise DataError(f"data.name={name!r} is not one of {known}")
    if image_shape not in (None, source.image_shape):
        raise DataError(
            f"data {name!r} has images of shape {source.image_shape}, "
            f"the configuration asks for {image_shape}"
        )
    fits = len(source) * math.prod(source.image_shape) <= MAX_BYTES_IN_MEMORY
    return in_memory(source, num_workers) if fits else source


def _open_folder(
    dir: str,
    split: str,
    image_shape: ImageShape | None,
    skip_bad: float,
    num_workers: int,
) -> Source:
    # Imported where it is used, as are the image formats.
    from progdist.data.folder import open_folder

    if not dir or not image_shape:
        raise DataError("data 'folder': set data.dir and data.image_shape")
    return open_folder(dir, split, image_shape, skip_bad, num_workers)


def open_digits(split: str) -> ArraySource:
    """The 1,797 images of 8x8x1 that come with the package; one split, "train"."""
    if split != "train":
        raise DataError(f"data 'digits' has the split 'train' only, not {split!r}")
    path = resources.files("progdist.data") / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        image, label = arrays["image"], arrays["label"]
    return ArraySource("digits", image, label.astype(np.int32), 10)


def open_idx(name: Literal["mnist", "fashion_mnist"], split: str, dir: str) -> Source:
    """MNIST or Fashion-MNIST, 28x28x1, from the idx files in `dir`."""
    if split not in _IDX_PREFIX:
        raise DataError(f"data {name!r} has the splits train and test, not {split!r}")
    if not dir and name == "fashion_mnist":
        dir = FASHION_MNIST_DIR
    if not dir:
        raise DataError(f"data {name!r}: {_HINTS[name]}")
    images = read_idx(_find_idx(name, split, Path(dir), "images-idx3"), 3)[..., None]
    labels = read_idx(_find_idx(name, split, Path(dir), "labels-idx1"), 1)
    if len(images) != len(labels):
        raise DataError(f"{dir}: {len(images)} {split} images, {len(labels)} labels")
    if labels.max() > 9:
        raise DataError(f"{dir}: a {split} label is {labels.max()}, above 9")
    return ArraySource(name, images, labels.astype(np.int32), 10)


def _find_idx(name: str, split: str, dir: Path, part: str) -> Path:
    """The file of that part, plain or gzipped."""
    plain = dir / f"{_IDX_PREFIX[split]}-{part}-ubyte"
    # Copies of the original files are also found with a dot before "idx".
    dotted = plain.with_name(plain.name.replace("-idx", ".idx"))
    for path in (plain, dotted):
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file():
                return candidate
    raise DataError(f"no {plain.name}(.gz) in {dir.absolute()}; {_HINTS[name]}")


def make_random(split: str, image_shape: ImageShape, num: int = 256) -> ArraySource:
    """`num` images of uniform noise with labels 0..9, the same on every call."""
    rng = np.random.default_rng(0 if split == "train" else 1)
    images = rng.integers(0, 256, (num, *image_shape), np.uint8)
    labels = rng.integers(0, 10, num, np.int32)
    return ArraySource("random", images, labels, 10)
