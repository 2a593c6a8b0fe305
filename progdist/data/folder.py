"""A folder of image files, decoded as they are read.

Where every image lies in a sub-directory of its class, DIR/CLASS/NAME, the sorted names
of these are the classes; otherwise the images have no labels. Where all directories in
DIR are called train, test, val or validation, they are its splits.

Before training every file is decoded once, and what cannot be used is named. Which file
is example i depends on the names alone, and the first examples are a fair sample.
"""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64
from PIL import Image

from progdist.data import images, inspection
from progdist.data.images import ImageError, ImageShape
from progdist.data.listing import (
    SUFFIXES,
    Listing,
    Names,
    is_dir,
    list_images,
    printable,
)
from progdist.data.order import permutation
from progdist.data.source import Batch, DataError

SPLITS = ("train", "test", "val", "validation")


def open_folder(
    dir: str,
    split: str,
    image_shape: ImageShape,
    skip_bad: float = 0.0,
    num_workers: int = 8,
) -> "FolderSource":
    """Lists the images of a folder and tries those that are new.

    Args:
      dir: the folder.
      split: which of `SPLITS`; "train" is everything where there are no splits.
      image_shape: (height, width, channels) to crop and resize to.
      skip_bad: share of the files that may be bad, and are then left out.
      num_workers: threads that try the files.

    Raises:
      DataError: if there are no images, or too many are bad; these are named.
    """
    root = _split_dir(Path(os.path.expanduser(dir)).absolute(), split)
    listing = list_images(root)
    if not len(listing.names):
        suffixes = ", ".join(suffix.decode() for suffix in SUFFIXES)
        raise DataError(f"{_shown(root)}: holds no image ({suffixes})")
    bad = inspection.inspect(root, listing, num_workers)
    if bad:
        _judge(root, listing, bad, skip_bad)
    labels, num_classes = _classes(listing.names)
    usable = np.ones(len(listing.names), bool)
    usable[list(bad)] = False
    return _make_source(
        root, listing.where(usable), labels[usable], num_classes, image_shape
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded as they are read.

    Attributes:
      root: directory that the names are relative to.
      names: of the files, by example.
      labels: class of each example; 0 without classes.
      num_classes: 0 where the folder has none.
      image_shape: (height, width, channels) after cropping and resizing.
      fingerprint: a hash of the names and sizes of all files that are used.
    """

    root: Path
    names: Names
    labels: Int32[np.ndarray, " n"]
    num_classes: int
    image_shape: ImageShape
    fingerprint: str
    name: str = "folder"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.names)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Reads and decodes the examples at `indices`; safe to call from threads.

        Raises:
          DataError: if a file has gone, or gone bad, since it was tried; names it.
        """
        image = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, index in enumerate(indices.tolist()):
            path = os.path.join(os.fsencode(self.root), self.names[index])
            try:
                image[row] = images.decode(
                    inspection.read_file(path),
                    self.image_shape,
                    Image.Resampling.BILINEAR,
                    upright=True,
                )
            except ImageError as error:
                raise DataError(f"{printable(path)}: {error}") from error
        return Batch(image, self.labels[indices])


def _split_dir(root: Path, split: str) -> Path:
    """The directory of a split."""
    try:
        with os.scandir(root) as entries:
            below = {e.name for e in entries if is_dir(e) and e.name[0] != "."}
    except OSError as error:
        raise DataError(f"data.dir={_shown(root)}: {error.strerror}") from error
    splits = below if below <= set(SPLITS) else set()
    if split in splits:
        return root / split
    if split == "train" and not splits:
        return root
    there = ", ".join(sorted(splits)) or "train, which is all of it"
    raise DataError(f"{_shown(root)}: has no split {split!r}; it has {there}")


def _judge(root: Path, listing: Listing, bad: dict[int, str], skip_bad: float) -> None:
    """Refuses too many bad files, or says which are left out."""
    count, total = len(bad), len(listing.names)
    found = f"{_shown(root)}: {count:,} of {total:,} images cannot be used"
    if count == total or count > skip_bad * total:
        raise DataError(
            f"{found} (data.skip_bad={skip_bad:g} is the share that may be left out)\n"
            + inspection.report(listing, bad)
        )
    print(
        f"{found} and are left out\n{inspection.report(listing, bad)}", file=sys.stderr
    )


def _make_source(
    root: Path,
    listing: Listing,
    labels: Int32[np.ndarray, " n"],
    num_classes: int,
    image_shape: ImageShape,
) -> FolderSource:
    """Mixes the files, so that the first ones are not all of the first class."""
    names, digest = listing.names, hashlib.sha256()
    for name, size in zip(names, listing.sizes.tolist(), strict=True):
        digest.update(b"%s\0%d\0" % (name, size))
    order = permutation(0, 0, len(names))
    return FolderSource(
        root,
        Names.of([names[row] for row in order.tolist()]),
        labels[order],
        num_classes,
        image_shape,
        digest.hexdigest(),
    )


def _classes(names: Names) -> tuple[Int32[np.ndarray, " n"], int]:
    """Label of each file, and the number of classes; zeros where there are none."""
    labels = np.zeros(len(names), np.int32)
    if any(name.count(b"/") != 1 for name in names):
        return labels, 0
    classes = sorted({name.partition(b"/")[0] for name in names})
    numbers = {name: number for number, name in enumerate(classes)}
    for row, name in enumerate(names):
        labels[row] = numbers[name.partition(b"/")[0]]
    return labels, len(classes)


def _shown(path: Path) -> str:
    return printable(os.fsencode(path))
