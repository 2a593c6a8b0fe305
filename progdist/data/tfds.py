"""Random access to the output of `prepare`, without TensorFlow.

A dataset lies in DIR/NAME[/CONFIG]/VERSION as array_record files with the metadata of
TFDS. A copy that `prepare` resized is called NAME_resizedSIZE.
"""

import dataclasses
import importlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from progdist.data import identity, records
from progdist.data.images import Filter, ImageError, ImageShape, decode
from progdist.data.source import Batch, DataError, Source, numbered_classes
from progdist.workdir.files import expand

# Datasets of hundreds of GB at full size, which are slow to decode.
TO_BE_RESIZED = ("imagenet2012", "lsun")
_MODULES = {
    # TFDS imports its array_record reader only at the first read.
    "tfds": ["array_record.python.array_record_data_source"],
    "prepare": ["tensorflow", "lmdb"],
}


def open_tfds(
    tfds_name: str, split: str, dir: str, image_shape: ImageShape | None = None
) -> Source:
    """Opens a prepared TFDS dataset.

    The arguments are those of `progdist.data.open_source`. `image_shape` defaults to
    the shape of the stored images, if they share one.

    Raises:
      DataError: if `dir` does not hold the dataset, it has no such split, or its images
        have several sizes and `image_shape` is None.
    """
    builder = _open_builder(tfds_name, dir, image_shape)
    features = builder.info.features
    shape = image_shape or features["image"].shape
    if None in shape:
        raise DataError(f"{tfds_name}: images have many sizes; set data.image_shape")
    examples = _open_records(builder, split)
    ranks, names = _label_ranks(features), _class_names(features)
    is_resized = features["image"].shape[:2] != shape[:2]
    by_area = is_resized and resampling(tfds_name) == "area"
    fingerprint = identity.fingerprint(
        _parts_of(builder, split),
        ranks,
        identity.text(names),
        *([b"exact area"] if by_area else []),
    )
    return TfdsSource(tfds_name, examples, shape, ranks, names, fingerprint)


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """A prepared dataset, decoded as it is read.

    Attributes:
      name: its name in TFDS.
      records: sequence of {"image": encoded bytes, "label": int}.
      image_shape: (height, width, channels) after cropping and resizing.
      label_ranks: label to return for each stored label; empty without labels.
      class_names: names of the classes, by label to return; empty without labels.
      fingerprint: digest of the files, the examples in use, the labels, and the rule
        by which images are averaged over areas.
    """

    name: str
    records: Any
    image_shape: ImageShape
    label_ranks: Int64[np.ndarray, " classes"]
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 where the data has none."""
        return len(self.label_ranks)

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
        """Returns the label to use; withheld labels are stored as -1."""
        if not 0 <= label < self.num_classes:
            raise DataError(f"{self.name}: this split has no labels; read another")
        return int(self.label_ranks[label])

    def _read(self, indices: Int64[np.ndarray, " k"]) -> Sequence[dict[str, Any]]:
        """Returns the records at `indices`, with verified checksums."""
        try:
            return self.records.__getitems__(indices.tolist())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.name}: {reason}; prepare the data again") from error


def decode_image(
    encoded: bytes | None, image_shape: ImageShape, name: str
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes an image as TFDS would, ignoring its EXIF orientation.

    Records missing from a truncated file are read as empty: `encoded` is then None.
    """
    try:
        return decode(encoded or b"", image_shape, resampling(name), upright=False)
    except ImageError as error:
        raise DataError(
            f"{name}: an image is {error}; if damaged, prepare the data again"
        ) from error


def resampling(name: str) -> Filter:
    """Returns the published models' filter: area for ImageNet, otherwise triangle."""
    return "area" if name.startswith("imagenet") else "triangle"


def resized_name(tfds_name: str, size: int) -> str:
    """Returns the copy's name: "lsun/tower" at 128 is "lsun_resized128/tower"."""
    name, slash, config = tfds_name.partition("/")
    return f"{name}_resized{size}{slash}{config}"


def data_dir(dir: str) -> Path:
    """Returns the directory of all prepared datasets; "" selects the TFDS default."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return expand(dir or default).absolute()


def import_extra(extra: Literal["tfds", "prepare"]) -> Any:
    """Imports TFDS with the packages of an extra; late, as it takes half a second.

    Raises:
      DataError: if one of them is missing; says how to install it.
    """
    try:
        for module in _MODULES[extra]:
            importlib.import_module(module)
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DataError(
            f"TFDS data need more packages ({error}); "
            f"install them with pip install 'progdist[{extra}]'"
        ) from error


def _open_builder(tfds_name: str, dir: str, image_shape: ImageShape | None) -> Any:
    """Opens the dataset, or its copy at the size of `image_shape` if there is one."""
    # The name becomes part of a path.
    if not re.fullmatch(r"\w+(/[\w-]+)?", tfds_name):
        raise DataError(f"data.tfds_name={tfds_name!r}: must be NAME or NAME/CONFIG")
    names = [tfds_name]
    if image_shape:
        names.insert(0, resized_name(tfds_name, image_shape[0]))
    for name in names:
        infos = (data_dir(dir) / name).glob("[0-9]*/dataset_info.json")
        versions = sorted((path.parent for path in infos), key=_version)
        if versions:
            return import_extra("tfds").builder_from_directory(versions[-1])
    size = image_shape[0] if image_shape else "SIZE"
    resize = f" --image_size={size}" if tfds_name.startswith(TO_BE_RESIZED) else ""
    raise DataError(
        f"no prepared {tfds_name} in {data_dir(dir)}; run progdist prepare {tfds_name}"
        f"{resize} --dir={data_dir(dir)}"
    )


def _open_records(builder: Any, split: str) -> Any:
    """Returns the sequence of examples, with the images as encoded bytes."""
    decoders = {"image": import_extra("tfds").decode.SkipDecoding()}
    try:
        return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files, which "
            "have no random access; run progdist prepare into another directory"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{builder.data_dir}: {reason}") from error


def _parts_of(builder: Any, split: str) -> bytes:
    """Returns file, digest and range of examples of each part of a split."""
    digests = records.digests_of(Path(builder.data_dir))
    parts = [
        [name, digests.get(name, b"").hex(), part.skip, part.take]
        for part in builder.info.splits[split].file_instructions
        for name in [part.basename()]
    ]
    return json.dumps(parts).encode()


def _version(path: Path) -> list[int]:
    """Returns a sort key for the directory of a version, such as "3.0.2"."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _label_ranks(features: Any) -> Int64[np.ndarray, " classes"]:
    """Returns the label to use for each stored one.

    ImageNet's classes are numbered by the order of their WordNet ids, as released
    class-conditional models expect; `imagenet_resized` stores another order.
    """
    if "label" not in features:
        return np.zeros(0, np.int64)
    names = features["label"].names or []
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        return np.argsort(np.argsort(names)).astype(np.int64)
    return np.arange(features["label"].num_classes, dtype=np.int64)


def _class_names(features: Any) -> tuple[str, ...]:
    """Returns the names of the classes in the order of `_label_ranks`."""
    ranks = _label_ranks(features)
    names = features["label"].names if len(ranks) else None
    if not names:
        return numbered_classes(len(ranks))
    return tuple(names[label] for label in np.argsort(ranks))
