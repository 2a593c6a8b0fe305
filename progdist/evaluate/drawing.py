"""Samples of a model for an evaluation: their parts, the first images, the time."""

import statistics
from collections.abc import Callable, Iterator

import numpy as np

from progdist import parallel
from progdist.evaluate.extraction import Part
from progdist.sampling.draw import Batches
from progdist.workdir.array_cache import Arrays


class Drawing:
    """Samples, drawn batch by batch; each process takes its share of a batch.

    Attributes:
      images: the first samples, up to `grid_images`.
    """

    def __init__(
        self,
        batches: Batches,
        batch_size: int,
        grid_images: int,
        image_shape: tuple[int, ...],
    ) -> None:
        """Takes the batches, and how many images to hand out."""
        self._batches, self._size, self._grid = batches, batch_size, grid_images
        self.images = np.zeros((0, *image_shape), np.uint8)

    @property
    def done(self) -> int:
        """Number of images drawn."""
        return self._batches.done

    @property
    def milliseconds(self) -> float:
        """Median time per image; every batch is computed at full size."""
        median = statistics.median(self._batches.seconds) / self._size
        return float(f"{1000 * median:.4g}")

    def parts(self, advance: Callable[[int], None]) -> Iterator[Part]:
        """Yields this process's share of each batch."""
        rows = parallel.local_rows(self._size)
        for batch in self._batches.draw(advance):
            first = self._batches.first
            if first < self._grid:
                early = batch[: self._grid - first]
                self.images = np.concatenate([self.images, early])
            yield np.arange(first, first + len(batch))[rows], batch[rows]

    def state(self) -> Arrays:
        """Returns what is done so far, on this process."""
        return self._batches.state() | {"images": self.images}

    def restore(self, state: Arrays) -> None:
        """Resumes from a state."""
        self._batches.restore(state)
        self.images = state["images"]
