"""A source of images: a length, a shape and a gather by index.

Stored images are uint8 [n, h, w, c]; labels are int32, and 0 if a source has none.
"""

import dataclasses
import functools
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from progdist.data import identity
from progdist.errors import InputError

MAX_CLASSES = 1 << 20  # a larger label is taken for a mistake


class DataError(InputError):
    """Missing or malformed data; the first line of the message is complete."""


class Batch(NamedTuple):
    """Images and labels of the same examples.

    Attributes:
      image: uint8 as stored, or float32 in [-1, 1] as the networks take it.
      label: class in 0..num_classes-1; 0 if the source has no labels.
    """

    image: UInt8[np.ndarray, "b h w c"] | Float32[np.ndarray, "b h w c"]
    label: Int32[np.ndarray, " b"]


@runtime_checkable
class Source(Protocol):
    """Random access to uint8 images. `take` is a pure function of the indices."""

    @property
    def name(self) -> str:
        """Name under which the data was opened."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label; empty if the data has no labels."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 if the data has no labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of the examples, their order and the classes; never empty."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Gathers uint8 images and labels in the indices' order, as new arrays."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A source held in memory.

    Attributes:
      name: name of the data.
      images: the images.
      labels: class of each image; 0 without classes.
      class_names: names of the classes, by label.
      origin: fingerprint of the source that was read into memory; by default that of
        the arrays.
    """

    name: str
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...] = ()
    origin: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        _, h, w, c = self.images.shape
        return h, w, c

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """Digest of the origin, or of images, labels and classes."""
        return self.origin or self._content

    @functools.cached_property
    def _content(self) -> str:
        names = identity.text(self.class_names)
        return identity.fingerprint(self.images, self.labels, names)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.images)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Gathers by numpy indexing, about a million small images per second."""
        return Batch(self.images[indices], self.labels[indices])


def numbered_classes(count: int) -> tuple[str, ...]:
    """Returns the names of classes that are known by their numbers alone."""
    return tuple(map(str, range(count)))


def check_labels(labels: np.ndarray, where: str) -> Int32[np.ndarray, " n"]:
    """Returns labels as int32.

    Raises:
      DataError: if one is no whole number from 0 to `MAX_CLASSES` - 1.
    """
    ok = np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
    if not ok or labels.min() < 0 or labels.max() >= MAX_CLASSES:
        found = f"from {labels.min()} to {labels.max()}" if ok else f"{labels.dtype}"
        raise DataError(
            f"{where}: labels are {found}, not whole numbers from 0 to "
            f"{MAX_CLASSES - 1}"
        )
    return labels.astype(np.int32)


def empty_classes(source: Source) -> list[str]:
    """Returns the names of the classes without images, as far as labels are known."""
    labels = getattr(source, "labels", np.arange(source.num_classes))
    counts = np.bincount(labels, minlength=source.num_classes)
    return [source.class_names[label] for label in np.flatnonzero(counts == 0)]
