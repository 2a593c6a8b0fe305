"""Image files in a folder or a zip archive, decoded as they are read.

Splits: `progdist.data.splits`. Labels: `progdist.data.labels`. Before training every
file is decoded once, and unusable files are listed. The order of the examples depends
only on the file names; the first examples are a fair sample.
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from progdist.config.settings import ImageShape, LabelRule
from progdist.data import identity, images, inspection
from progdist.data.archive import open_archive
from progdist.data.images import ImageError, Rules
from progdist.data.labels import read_labels
from progdist.data.listing import SUFFIXES, Directory, Files, Listing, printable
from progdist.data.order import permutation
from progdist.data.source import Batch, DataError
from progdist.data.splits import select_split
from progdist.workdir.files import expand


def open_folder(
    dir: str,
    split: str,
    image_shape: ImageShape,
    skip_bad: float,
    num_workers: int,
    label_rule: LabelRule,
    num_classes: int,
    rules: Rules,
) -> "FolderSource":
    """Lists the images of a folder, and checks those not known to be good.

    The arguments are those of `progdist.data.open_source`. Says on stderr which files
    are ignored.

    Raises:
      DataError: if there are no images, or too many bad ones; lists these.
    """
    files, listing = open_split(expand(dir).absolute(), split)
    if listing.ignored:
        _say_once(f"{files.where}: {listing.ignored_files()}")
    labels = read_labels(files, listing.names, label_rule)
    if num_classes and not labels.class_names:
        raise DataError(
            f"config.net.num_classes={num_classes}: must be 0, since {files.where} has "
            f"no labels: {labels.reason}"
        )
    bad, digests = inspection.inspect(files, listing, num_workers, rules)
    if bad:
        _judge(files.where, listing, bad, skip_bad)
    usable = np.delete(np.arange(len(listing.names)), list(bad))
    # Shuffled, so that the first ones are not all of the first class.
    rows = usable[permutation(0, 0, len(usable))]
    return FolderSource(
        files,
        [listing.names[row] for row in rows.tolist()],
        labels.labels[rows],
        labels.class_names,
        image_shape,
        identity.fingerprint(
            b"\0".join(listing.names[row] for row in usable.tolist()),
            digests[usable],
            labels.labels[usable],
            identity.text(labels.class_names),
            *([rules.background.encode()] if rules.background else []),
        ),
        rules.background,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded as they are read.

    Attributes:
      files: the folder.
      names: names of the files, by example.
      labels: class of each example; 0 without classes.
      class_names: names of the classes, by label; empty if the folder has none.
      image_shape: (height, width, channels) after cropping and resizing.
      fingerprint: digest of names, contents, labels and classes of all files in use,
        and of the background.
      background: colour behind transparent pixels; "" refuses them.
    """

    files: Files
    names: list[bytes]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    image_shape: ImageShape
    fingerprint: str
    background: str = ""
    name: str = "folder"

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.names)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Reads and decodes the examples at `indices`; safe to call from threads.

        Raises:
          DataError: naming a file that was deleted or damaged since it was checked.
        """
        image = np.empty((len(indices), *self.image_shape), np.uint8)
        for row, index in enumerate(indices.tolist()):
            name = self.names[index]
            try:
                encoded = self.files.read(name)
                image[row] = images.decode(
                    encoded, self.image_shape, "triangle", True, self.background
                )
            except ImageError as error:
                where = f"{self.files.where}/{printable(name)}"
                raise DataError(f"{where}: {error}") from error
        return Batch(image, self.labels[indices])


@functools.cache
def _say_once(line: str) -> None:
    """Prints a line on stderr; a run opens its data several times."""
    print(line, file=sys.stderr)


def open_split(path: Path, split: str) -> tuple[Files, Listing]:
    """Opens a split of a directory or zip archive; returns its files, at least one.

    Raises:
      DataError: if it holds no such split or no image.
    """
    files = select_split(_open_files(path), split)
    listing = files.listing()
    if not listing.names:
        rest = f"; {listing.ignored_files()}" if listing.ignored else ""
        raise DataError(f"{files.where}: holds no image ({', '.join(SUFFIXES)}){rest}")
    return files, listing


def _open_files(path: Path) -> Files:
    if path.suffix in (".npz", ".npy"):
        where = f"data.dir={printable(path)}"
        raise DataError(f"{where}: a file of arrays; set data.name='arrays'")
    return open_archive(path) if os.path.isfile(path) else Directory(path)


def _judge(where: str, listing: Listing, bad: dict[int, str], skip_bad: float) -> None:
    """Refuses too many bad files, or reports the ones that are left out."""
    count, total = len(bad), len(listing.names)
    report = inspection.report(listing, bad)
    summary = f"{where}: {count:,} of {total:,} images cannot be used"
    if count == total or count > skip_bad * total:
        rule = f"(data.skip_bad={skip_bad:g} is the share that may be left out)"
        raise DataError(f"{summary} {rule}\n{report}")
    print(f"{summary} and are left out\n{report}", file=sys.stderr)
