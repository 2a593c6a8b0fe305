"""A source of images: a length, a shape and a gather by index.

Stored images are uint8 [n, h, w, c]; labels are int32, and 0 if a source has none.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from progdist.errors import InputError


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
    def num_classes(self) -> int:
        """Number of classes; 0 if the data has no labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest that changes with the examples; "" if the name identifies them."""
        ...

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Gathers uint8 images and labels in the indices' order, as new arrays."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A source held in memory."""

    name: str
    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    num_classes: int
    fingerprint: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        _, h, w, c = self.images.shape
        return h, w, c

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.images)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Gathers by numpy indexing, about a million small images per second."""
        return Batch(self.images[indices], self.labels[indices])
