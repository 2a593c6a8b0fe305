"""Statistics of features of many images, over all devices and processes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt8
from threadpoolctl import threadpool_limits

from progdist import parallel
from progdist.evaluate import features, metrics

Name = Literal["pixels", features.Name]
Part = tuple[Int[np.ndarray, " b"], UInt8[np.ndarray, "b h w c"]]
"""This process's share of a batch: numbers of images, and the images."""
_ROWS = 32  # on each device at a time: the Inception's first layers take much memory


class Extractor(NamedTuple):
    """Features by name, as a function of the images of this process.

    Attributes:
      name: as it was asked for.
      label: what the features are called, in the names of the distances too.
      digest: of the network's weights; "" without any.
      num_features: how many of an image.
      num_classes: of the scores; 0 without any.
      extract: uint8 images -> features and scores. To be called with as many images
        by all processes, to within `max_rows`.
    """

    name: Name
    label: str
    digest: str
    num_features: int
    num_classes: int
    extract: Callable[[UInt8[np.ndarray, "b h w c"]], tuple[np.ndarray, Any]]


def make_extractor(
    name: Name,
    image_shape: tuple[int, int, int],
    max_rows: int,
    inception_weights: str = "",
) -> Extractor:
    """Returns the extractor for images of that shape.

    Args:
      name: one of `Name`.
      image_shape: of the images.
      max_rows: most images of a call, on each process.
      inception_weights: see `features.open_network`.

    Raises:
      WeightsError: if a network's weights are missing, or are others.
    """
    if name != "pixels":
        network = features.open_network(name, inception_weights)
        return network_extractor(network, image_shape, max_rows)
    blank = np.zeros((1, *image_shape), np.uint8)
    num_features = metrics.pixel_features(blank).shape[1]
    label = metrics.pixels_name(image_shape)
    return Extractor(
        name, label, "", num_features, 0, lambda x: (metrics.pixel_features(x), None)
    )


def network_extractor(
    network: features.Network, image_shape: tuple[int, int, int], max_rows: int
) -> Extractor:
    """Returns the extractor of a network that has been read."""
    mesh = parallel.make_mesh()
    params = parallel.place(network.params, mesh)
    apply = parallel.pmap(
        network.apply, mesh, (parallel.REPLICATED, parallel.ROWS), parallel.ROWS
    )
    blank = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    shapes = jax.eval_shape(network.apply, network.params, blank)
    size = _piece(max_rows)

    def extract(images: UInt8[np.ndarray, "b h w c"]) -> tuple[np.ndarray, Any]:
        # Processes with fewer rows in the last batch go along with the others.
        rows = max_rows if jax.process_count() > 1 else len(images)
        outputs = [
            apply(params, parallel.shard(_padded(images[first:][:size], size), mesh))
            for first in range(0, rows, size)
        ]
        found, logits = (
            np.concatenate([parallel.local_part(part) for part in parts])
            for parts in zip(*outputs, strict=True)
        )
        return found[: len(images)], logits[: len(images)]

    return Extractor(
        network.name,
        network.name,
        network.digest,
        shapes.features.shape[1],
        shapes.logits.shape[1],
        extract,
    )


def collect(
    extractors: Sequence[Extractor],
    parts: Iterable[Part],
    num: int,
    needs: metrics.Needs = metrics.ALL,
) -> list[metrics.Statistics]:
    """Returns the statistics of images 0 … num - 1, on every process.

    Each process gathers the features of its own images; sums go around at the end.
    """
    collectors = [
        metrics.Collector(num, e.num_features, e.num_classes, needs) for e in extractors
    ]
    # More threads of BLAS would spin, once they are done, on the cores that XLA needs.
    with threadpool_limits(1, "blas"):
        for indices, images in parts:
            for extractor, collector in zip(extractors, collectors, strict=True):
                collector.add(indices, *extractor.extract(images))
    sums = (parallel.each_process(collector.sums()) for collector in collectors)
    return [metrics.merge(num, parts) for parts in sums]


def _piece(max_rows: int) -> int:
    """Images of this process at a time: as many on each of its devices."""
    devices = jax.local_device_count()
    return min(_ROWS, -(-max_rows // devices)) * devices


def _padded(
    images: UInt8[np.ndarray, "b h w c"], size: int
) -> UInt8[np.ndarray, "size h w c"]:
    blank = np.zeros((size - len(images), *images.shape[1:]), np.uint8)
    return np.concatenate([images, blank])
