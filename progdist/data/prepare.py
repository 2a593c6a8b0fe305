"""Writes TFDS datasets as array_record files, with images of one size.

Needs TensorFlow; `progdist prepare` says more. Reading needs neither.
"""

import importlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from progdist.commands.prepare import main
from progdist.data import records
from progdist.data.images import crop_and_resize
from progdist.data.source import DataError
from progdist.data.tfds import data_dir, import_extra, resampling, resized_name
from progdist.errors import exit_with


def prepare(tfds_name: str, dir: str = "", image_size: int = 0) -> Path:
    """Writes array_record files from the original archives, downloaded if missing.

    Args:
      tfds_name: name of the dataset in TFDS.
      dir: data directory; "" is TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: height and width to store; 0 stores the images unchanged.

    Returns:
      The directory of the prepared dataset.

    Raises:
      DataError: if a package or an archive is missing, or an archive is damaged.
    """
    tfds = import_extra("prepare")
    if tfds_name.startswith("lsun") and not image_size:
        raise DataError("images of lsun have many sizes: set --image_size, say to 128")
    manual_dir = data_dir(dir) / "downloads" / "manual"
    # The prepared copies on TFDS's storage server have no random access.
    config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    try:
        builder = make_builder(tfds_name, data_dir(dir), image_size)
        builder.download_and_prepare(download_config=config)
    except DataError:
        raise
    except Exception as error:  # any kind: network, checksum, format, disk
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"could not prepare {tfds_name}: {reason}; "
            f"archives that cannot be downloaded belong in {manual_dir}"
        ) from error
    records.write_digests(Path(builder.data_dir))
    return Path(builder.data_dir)


def make_builder(tfds_name: str, root: Path, image_size: int) -> Any:
    """Returns the TFDS builder that writes array_record files at this image size."""
    tfds = import_extra("prepare")
    options = {"data_dir": root, "file_format": "array_record"}
    builder = tfds.builder(tfds_name, **options)
    if not image_size:
        return builder
    config = builder.builder_config.name if builder.builder_config else None
    return _resized_class(tfds, builder, image_size)(config=config, **options)


def _resized_class(tfds: Any, original: Any, size: int) -> type:
    """Returns a builder class that stores the examples of `original` at size x size."""
    with tfds.core.registered.skip_registration():

        class Resized(tfds.core.GeneratorBasedBuilder):
            name = resized_name(original.name, size)
            VERSION = original.version
            BUILDER_CONFIGS = original.BUILDER_CONFIGS
            MANUAL_DOWNLOAD_INSTRUCTIONS = original.MANUAL_DOWNLOAD_INSTRUCTIONS
            url_infos = original.url_infos

            def _info(self) -> Any:
                image = tfds.features.Image(
                    shape=(size, size, 3), encoding_format="png"
                )
                features = {**original.info.features, "image": image}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager: Any) -> Any:
                # A parameter `pipeline` would make TFDS start Apache Beam.
                splits = original._split_generators(dl_manager)
                return {s.name: self._generate_examples(**s.gen_kwargs) for s in splits}

            def _generate_examples(self, **source: Any) -> Iterator[Any]:
                is_lsun = original.name == "lsun"
                read = _read_lsun if is_lsun else original._generate_examples
                for key, example in read(**source):
                    image = _resized(example["image"], size, original.name)
                    yield key, {**example, "image": image}

    return Resized


def _read_lsun(
    extracted_dir: os.PathLike[str], file_path: str
) -> Iterator[tuple[int, dict]]:
    """Yields the examples of an LSUN database, as TFDS describes them."""
    lmdb: Any = importlib.import_module("lmdb")
    path = Path(extracted_dir) / file_path
    with lmdb.open(str(path), readonly=True, lock=False) as base, base.begin() as view:
        for number, (key, jpeg) in enumerate(view.cursor()):
            yield number, {"id": key.decode(), "image": io.BytesIO(jpeg)}


def _resized(
    encoded: io.BytesIO | io.BufferedReader, size: int, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes, crops and resizes one image."""
    with Image.open(encoded) as image:
        rgb = image.convert("RGB")
    return crop_and_resize(rgb, size, size, resampling(name))


if __name__ == "__main__":
    exit_with(main, ["python -m progdist.data.prepare", *sys.argv[1:]])
