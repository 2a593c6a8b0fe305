"""Reads, by random access and without TensorFlow, what `prepare` has written.

A dataset lies in DIR/NAME[/CONFIG]/VERSION as array_record files with the metadata of
TFDS. A copy that was resized while it was prepared is called NAME_resizedSIZE.
"""

import dataclasses
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from progdist.data.images import ImageError, ImageShape, decode
from progdist.data.source import Batch, DataError, Source

# Stored at their full size these take hundreds of GB and as long to decode.
TO_BE_RESIZED = ("imagenet2012", "lsun")


def open_tfds(
    tfds_name: str, split: str, dir: str, image_shape: ImageShape | None = None
) -> Source:
    """Opens a prepared dataset of TFDS, to be decoded as it is read.

    Args:
      tfds_name: name of the dataset, as in "cifar10" or "lsun/bedroom".
      split: a split of it, or part of one, as in "train[:10%]".
      dir: the data directory; "" is TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_shape: (height, width, channels) to crop and resize to; by default the
        shape in which the images are stored, if they share one.

    Raises:
      DataError: if it has not been prepared in `dir`, has no such split, or its images
        have several sizes and `image_shape` is None.
    """
    builder = _open_builder(tfds_name, dir, image_shape)
    features = builder.info.features
    shape = image_shape or features["image"].shape
    if None in shape:
        raise DataError(f"{tfds_name}: its images have many sizes, give one to read")
    records = _open_records(builder, split)
    return TfdsSource(tfds_name, records, shape, _label_ranks(features))


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """A prepared dataset, decoded as it is read.

    Attributes:
      name: its name in TFDS.
      records: sequence of {"image": encoded bytes, "label": int}.
      image_shape: (height, width, channels) after cropping and resizing.
      label_ranks: label to give out for each stored label; empty without labels.
    """

    name: str
    records: Any
    image_shape: ImageShape
    label_ranks: Int64[np.ndarray, " classes"]

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 where the data has none."""
        return len(self.label_ranks)

    @property
    def fingerprint(self) -> str:
        """None: what TFDS has prepared stays as it is."""
        return ""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.records)

    def take(self, indices: Int64[np.ndarray, " k"]) -> Batch:
        """Reads and decodes the examples at `indices`; safe to call from threads."""
        image = np.empty((len(indices), *self.image_shape), np.uint8)
        label = np.zeros(len(indices), np.int32)
        for row, record in enumerate(self._read(indices)):
            image[row] = decode_image(record["image"], self.image_shape, self.name)
            if self.num_classes:
                label[row] = self._rank(int(record["label"]))
        return Batch(image, label)

    def _rank(self, label: int) -> int:
        """The label to give out; -1 is stored where labels are kept secret."""
        if not 0 <= label < self.num_classes:
            raise DataError(f"{self.name}: this split has no labels; read another")
        return int(self.label_ranks[label])

    def _read(self, indices: Int64[np.ndarray, " k"]) -> Sequence[dict[str, Any]]:
        """The records at `indices`; their checksums are tested here."""
        try:
            return self.records.__getitems__(indices.tolist())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.name}: {reason}; prepare the data again") from error


def decode_image(
    encoded: bytes | None, image_shape: ImageShape, name: str
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes an image as TFDS would, without turning it by its EXIF orientation.

    Records that a truncated file has lost read as empty: `encoded` is None there.
    """
    try:
        return decode(encoded or b"", image_shape, resampling(name), upright=False)
    except ImageError as error:
        raise DataError(
            f"{name}: an image is {error}; if damaged, prepare the data again"
        ) from error


def resampling(name: str) -> Image.Resampling:
    """The filter of the published models: area for ImageNet, else a triangle."""
    is_imagenet = name.startswith("imagenet")
    return Image.Resampling.BOX if is_imagenet else Image.Resampling.BILINEAR


def resized_name(tfds_name: str, size: int) -> str:
    """Name of the copy at size x size: "lsun/tower", 128 -> "lsun_resized128/tower"."""
    name, slash, config = tfds_name.partition("/")
    return f"{name}_resized{size}{slash}{config}"


def data_dir(dir: str) -> Path:
    """Directory of all prepared datasets: `dir`, or where TFDS keeps them."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(dir or default).expanduser().absolute()


def _open_builder(tfds_name: str, dir: str, image_shape: ImageShape | None) -> Any:
    """Finds the dataset, preferring a copy of the size asked for."""
    # The name becomes part of a path.
    if not re.fullmatch(r"\w+(/[\w-]+)?", tfds_name):
        raise DataError(f"data.tfds_name={tfds_name!r}: give NAME or NAME/CONFIG")
    names = [tfds_name]
    if image_shape:
        names.insert(0, resized_name(tfds_name, image_shape[0]))
    for name in names:
        infos = (data_dir(dir) / name).glob("[0-9]*/dataset_info.json")
        versions = sorted((path.parent for path in infos), key=_version)
        if versions:
            return _import_tfds().builder_from_directory(versions[-1])
    size = image_shape[0] if image_shape else "SIZE"
    resize = f" --image_size={size}" if tfds_name.startswith(TO_BE_RESIZED) else ""
    raise DataError(
        f"no prepared {tfds_name} in {data_dir(dir)}; run python -m progdist.data."
        f"prepare --tfds_name={tfds_name}{resize} --dir={data_dir(dir)}"
    )


def _open_records(builder: Any, split: str) -> Any:
    """Random access to the examples, with the images as encoded bytes."""
    decoders = {"image": _import_tfds().decode.SkipDecoding()}
    try:
        return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files, which "
            "have no random access; run progdist.data.prepare into another directory"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{builder.data_dir}: {' '.join(str(error).split())}"
        ) from error


def _version(path: Path) -> list[int]:
    """Sortable form of the directory of a version, as in "3.0.2"."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _import_tfds() -> Any:
    """TFDS, imported late: it is optional and takes half a second."""
    try:
        # TFDS itself imports its reader of array_record only when it first reads.
        importlib.import_module("array_record.python.array_record_data_source")
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataError(
            f"reading TFDS data needs more packages ({error}); "
            "install them with pip install 'progdist[tfds]'"
        ) from error


def _label_ranks(features: Any) -> Int64[np.ndarray, " classes"]:
    """Label to give out for each stored one.

    ImageNet's classes are numbered by the order of their WordNet ids, as released
    class-conditional models expect; `imagenet_resized` stores another order.
    """
    if "label" not in features:
        return np.zeros(0, np.int64)
    names = features["label"].names or []
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        return np.argsort(np.argsort(names)).astype(np.int64)
    return np.arange(features["label"].num_classes, dtype=np.int64)
