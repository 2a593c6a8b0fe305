"""A folder of image files, decoded as they are read.

If every image lies in a sub-directory of its class, DIR/CLASS/NAME, the sorted names of
the sub-directories are the classes; otherwise the images have no labels. If all
directories in DIR are called train, test, val or validation, they are its splits.

Before training every file is decoded once, and unusable files are listed. The order of
the examples depends only on the file names; the first examples are a fair sample.
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
from progdist.data.images import ImageError, Rules
from progdist.data.listing import SUFFIXES, Listing, is_dir, list_images, printable
from progdist.data.order import permutation
from progdist.data.settings import FOLDER_SPLITS, ImageShape
from progdist.data.source import Batch, DataError


def open_folder(
    dir: str,
    split: str,
    image_shape: ImageShape,
    skip_bad: float,
    num_workers: int,
    rules: Rules,
) -> "FolderSource":
    """Lists the images of a folder, and checks those not known to be good.

    The arguments are those of `progdist.data.open_source`. Without splits, "train" is
    the whole folder. Says on stderr which files are ignored.

    Raises:
      DataError: if there are no images, or too many bad ones; lists these.
    """
    root = _split_dir(Path(os.path.expanduser(dir)).absolute(), split)
    listing = list_images(root)
    ignored = listing.ignored_files()
    if not listing.names:
        reason = f"holds no image ({', '.join(SUFFIXES)})"
        raise DataError(
            "; ".join(filter(None, [f"{printable(root)}: {reason}", ignored]))
        )
    if ignored:
        print(f"{printable(root)}: {ignored}", file=sys.stderr)
    bad = inspection.inspect(root, listing, num_workers, rules)
    if bad:
        _judge(root, listing, bad, skip_bad)
    usable = np.delete(np.arange(len(listing.names)), list(bad))
    digest = hashlib.sha256()
    for row in usable.tolist():
        digest.update(b"%s\0%d\0" % (listing.names[row], listing.sizes[row]))
    digest.update(rules.background.encode())
    # Shuffled, so that the first ones are not all of the first class.
    rows = usable[permutation(0, 0, len(usable))]
    labels, num_classes = _classes(listing.names)
    return FolderSource(
        root,
        [listing.names[row] for row in rows.tolist()],
        labels[rows],
        num_classes,
        image_shape,
        digest.hexdigest(),
        rules.background,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded as they are read.

    Attributes:
      root: directory to which the names are relative.
      names: names of the files, by example.
      labels: class of each example; 0 without classes.
      num_classes: number of classes; 0 if the folder has none.
      image_shape: (height, width, channels) after cropping and resizing.
      fingerprint: digest of the names and sizes of all files in use.
      background: colour behind transparent pixels; "" refuses them.
    """

    root: Path
    names: list[bytes]
    labels: Int32[np.ndarray, " n"]
    num_classes: int
    image_shape: ImageShape
    fingerprint: str
    background: str = ""
    name: str = "folder"

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.names)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Reads and decodes the examples at `indices`; safe to call from threads.

        Raises:
          DataError: naming a file that was deleted or damaged since it was checked.
        """
        image = np.empty((len(indices), *self.image_shape), np.uint8)
        triangle = Image.Resampling.BILINEAR
        for row, index in enumerate(indices.tolist()):
            path = os.path.join(os.fsencode(self.root), self.names[index])
            try:
                encoded = inspection.read_file(path)
                image[row] = images.decode(
                    encoded, self.image_shape, triangle, True, self.background
                )
            except ImageError as error:
                raise DataError(f"{printable(path)}: {error}") from error
        return Batch(image, self.labels[indices])


def _split_dir(root: Path, split: str) -> Path:
    """Returns the directory of a split."""
    try:
        with os.scandir(root) as entries:
            below = {e.name for e in entries if is_dir(e) and e.name[0] != "."}
    except OSError as error:
        raise DataError(f"data.dir={printable(root)}: {error.strerror}") from error
    splits = below if below <= set(FOLDER_SPLITS) else set()
    if split in splits:
        return root / split
    if split == "train" and not splits:
        return root
    there = ", ".join(sorted(splits)) or "train, the whole folder"
    raise DataError(f"{printable(root)}: has no split {split!r}; it has {there}")


def _judge(root: Path, listing: Listing, bad: dict[int, str], skip_bad: float) -> None:
    """Refuses too many bad files, or reports the ones that are left out."""
    count, total = len(bad), len(listing.names)
    report = inspection.report(listing, bad)
    summary = f"{printable(root)}: {count:,} of {total:,} images cannot be used"
    if count == total or count > skip_bad * total:
        rule = f"(data.skip_bad={skip_bad:g} is the share that may be left out)"
        raise DataError(f"{summary} {rule}\n{report}")
    print(f"{summary} and are left out\n{report}", file=sys.stderr)


def _classes(names: list[bytes]) -> tuple[Int32[np.ndarray, " n"], int]:
    """Returns labels and the number of classes; zeros without classes."""
    if any(name.count(b"/") != 1 for name in names):
        return np.zeros(len(names), np.int32), 0
    classes = sorted({os.path.dirname(name) for name in names})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers[os.path.dirname(name)] for name in names]
    return np.array(labels, np.int32), len(classes)
