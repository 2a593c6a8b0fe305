"""Small archives in the formats in which the datasets are published.

Every image is computed from its label, so that a reader can be checked against it.
"""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def image_of(label: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """An image that differs by label, channel, row and column, and has no symmetry."""
    y, x, c = np.meshgrid(*map(np.arange, (height, width, 3)), indexing="ij")
    return ((37 * label + 5 * y + 11 * x * x + 60 * c) % 256).astype(np.uint8)


def smooth_image_of(label: int, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """A gradient that survives JPEG and resizing to a few levels."""
    y, x, c = np.meshgrid(*map(np.arange, (height, width, 3)), indexing="ij")
    return (20 * label + 40 * c + 60 * y // height + 30 * x // width).astype(np.uint8)


def write_cifar10(path: Path, per_file: int = 2) -> None:
    """cifar-10-binary.tar.gz: 1 byte label, 3072 bytes channels x rows x columns.

    Labels count up over the five training files, then anew over the test file.
    """
    names = ["airplane", "automobile", "bird", "cat", "deer"]
    names += ["dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta.txt": "\n".join([*names, "", ""]).encode()}
    for number in range(5):
        labels = range(number * per_file, (number + 1) * per_file)
        files[f"data_batch_{number + 1}.bin"] = b"".join(map(_cifar10_record, labels))
    files["test_batch.bin"] = b"".join(map(_cifar10_record, range(per_file)))
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            _add(tar, f"cifar-10-batches-bin/{name}", content)


def _cifar10_record(label: int) -> bytes:
    return bytes([label % 10]) + image_of(label, 32, 32).transpose(2, 0, 1).tobytes()


def write_imagenet_resized(path: Path, labels: list[int], size: int = 64) -> None:
    """Imagenet64_*_npz.zip: flat channels x rows x columns, labels from 1."""
    images = [image_of(i, size, size).transpose(2, 0, 1).ravel() for i in labels]
    buffer = io.BytesIO()
    np.savez(buffer, data=np.stack(images), labels=np.array(labels) + 1)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.name.replace("_npz.zip", ".npz"), buffer.getvalue())


def write_imagenet2012(folder: Path, labels: dict[str, int]) -> None:
    """ILSVRC2012_img_{train,val}.tar: by WordNet id tars of JPEG files; JPEG files."""
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as tar:
        for wordnet_id, label in labels.items():
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                jpeg = _jpeg(smooth_image_of(label, 96, 160))
                _add(images, f"{wordnet_id}_1.JPEG", jpeg)
            _add(tar, f"{wordnet_id}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        jpeg = _jpeg(smooth_image_of(0, 96, 160))
        _add(tar, "ILSVRC2012_val_00000001.JPEG", jpeg)


def write_lsun(path: Path, labels: list[int]) -> None:
    """CATEGORY_SPLIT_lmdb.zip: a database of JPEG files, their short side 256."""
    import lmdb

    name = path.name.removesuffix(".zip")
    folder = path.parent / f"{name}_source"
    base = lmdb.open(str(folder), map_size=1 << 24)
    with base, base.begin(write=True) as edit:
        for label in labels:
            jpeg = _jpeg(smooth_image_of(label, 300, 256))
            edit.put(f"{label:040x}".encode(), jpeg)
    with zipfile.ZipFile(path, "w") as archive:
        for file in ("data.mdb", "lock.mdb"):
            archive.write(folder / file, f"{name}/{file}")


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=98, subsampling=0)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
