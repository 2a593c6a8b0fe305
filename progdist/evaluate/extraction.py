"""Features of images, and their statistics over all devices and processes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int, UInt8
from threadpoolctl import threadpool_limits

from progdist import parallel
from progdist.config import Features as Name
from progdist.evaluate import features, metrics
from progdist.evaluate.partial import Partial

Part = tuple[Int[np.ndarray, " b"], UInt8[np.ndarray, "b h w c"]]
"""Indices and images: this process's share of a batch."""
_ROWS = 32  # per device at a time: the first layers of Inception need much memory


class Extractor(NamedTuple):
    """Feature extractor, a function of this process's images.

    Attributes:
      name: one of `Name`.
      label: name of the features in rows; for reduced pixels it includes the size.
      digest: SHA-256 of the network's weights; "" for pixels.
      num_features: number of features per image.
      num_classes: number of classes that are scored; 0 for pixels.
      extract: uint8 images -> features and scores. All processes must call it with
        the same number of images; only the last batch may have fewer on some.
      suffix: suffix of the metric names.
      frechet: name of the Fréchet distance.
    """

    name: Name
    label: str
    digest: str
    num_features: int
    num_classes: int
    extract: Callable[[UInt8[np.ndarray, "b h w c"]], tuple[np.ndarray, Any]]
    suffix: str
    frechet: str = "FD"

    def metric_name(self, title: str) -> str:
        """Returns "FID" for "FD" of the FID's Inception, "FD-pixels" of pixels."""
        return (self.frechet if title == "FD" else title) + self.suffix


def make_extractor(
    name: Name,
    image_shape: tuple[int, int, int],
    max_rows: int,
    inception_weights: str = "",
) -> Extractor:
    """Returns the extractor for images of the given shape.

    Args:
      name: one of `Name`.
      image_shape: shape of the images.
      max_rows: maximum number of images per call, on each process.
      inception_weights: see `features.open_network`.

    Raises:
      WeightsError: if the network's weights are missing or have the wrong content.
    """
    if name != "pixels":
        network = features.open_network(name, inception_weights)
        return network_extractor(network, image_shape, max_rows)
    label = features.pixels_label(image_shape)
    blank = np.zeros((1, *image_shape), np.uint8)
    return Extractor(
        name,
        label,
        digest="",
        num_features=features.pixel_features(blank).shape[1],
        num_classes=0,
        extract=lambda images: (features.pixel_features(images), None),
        suffix=f"-{label}",
    )


def network_extractor(
    network: features.Network, image_shape: tuple[int, int, int], max_rows: int
) -> Extractor:
    """Returns the extractor of an open network."""
    mesh = parallel.make_mesh()
    params = parallel.place(network.params, mesh)
    apply = parallel.pmap(
        network.apply, mesh, (parallel.REPLICATED, parallel.ROWS), parallel.ROWS
    )
    blank = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    shapes = jax.eval_shape(network.apply, network.params, blank)
    size = _piece(max_rows)

    def extract(images: UInt8[np.ndarray, "b h w c"]) -> tuple[np.ndarray, Any]:
        # In the last batch, processes with fewer rows must make as many calls.
        rows = max_rows if jax.process_count() > 1 else len(images)
        outputs = [
            apply(params, parallel.shard(_padded(images[first:][:size], size), mesh))
            for first in range(0, rows, size)
        ]
        vectors, logits = (
            np.concatenate([parallel.local_part(part) for part in parts])
            for parts in zip(*outputs, strict=True)
        )
        return vectors[: len(images)], logits[: len(images)]

    return Extractor(
        network.name,
        network.name,
        network.digest,
        shapes.features.shape[1],
        shapes.logits.shape[1],
        extract,
        network.suffix,
        network.frechet,
    )


def collect(
    extractors: Sequence[Extractor],
    parts: Iterable[Part],
    num: int,
    needs: metrics.Needs = metrics.ALL,
    partial: Partial | None = None,
) -> list[metrics.Statistics]:
    """Returns the statistics of images 0 … num - 1, on every process.

    Each process gathers the features of its own images; they exchange sums at the end.
    With the `partial` of an interrupted computation, the parts are those of the rest.
    """
    collectors = [
        metrics.Collector(num, e.num_features, e.num_classes, needs) for e in extractors
    ]
    if partial:
        for extractor, collector in zip(extractors, collectors, strict=True):
            partial.join(extractor.label, collector)
    # Idle BLAS threads would spin on the cores that XLA needs.
    with threadpool_limits(1, "blas"):
        for indices, images in parts:
            for extractor, collector in zip(extractors, collectors, strict=True):
                collector.add(indices, *extractor.extract(images))
    sums = (parallel.each_process(collector.sums()) for collector in collectors)
    return [metrics.merge(num, parts) for parts in sums]


def _piece(max_rows: int) -> int:
    """Returns the number of images per call; equal on each local device."""
    devices = jax.local_device_count()
    return min(_ROWS, -(-max_rows // devices)) * devices


def _padded(
    images: UInt8[np.ndarray, "b h w c"], size: int
) -> UInt8[np.ndarray, "size h w c"]:
    blank = np.zeros((size - len(images), *images.shape[1:]), np.uint8)
    return np.concatenate([images, blank])
