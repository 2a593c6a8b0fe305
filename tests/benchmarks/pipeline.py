"""How many images a second the data pipeline delivers, and how many training takes.

    python -m tests.benchmarks.pipeline

For each kind of data, made anew in a temporary directory: images/s of `data.batches`
with 1, 2 and 8 workers while nothing else runs; images/s that a distillation step of a
small U-Net for this image size consumes; the supply of 8 workers over that demand; and
the speed of steps that are fed by the pipeline over that of steps that reuse a batch.
On a CPU decoding and training share the cores. Takes three to four minutes.
"""

import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from progdist import data, parallel
from progdist.commands.devices import num_cores
from progdist.data import sources
from progdist.nets.settings import UNetConfig
from tests.benchmarks.overhead import Case

GOLDEN = Path(__file__).parents[1] / "golden"
NUM_FILES, SECONDS, WORKERS = 3000, 3.0, (1, 2, 8)


class Kind(NamedTuple):
    """One kind of data: how it is made and opened, and the network that takes it."""

    title: str
    open: Callable[[Path], data.Source]
    net: UNetConfig
    batch_size: int


def photo(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of the spectrum of natural images, which compresses about as they do."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    radius = np.maximum(np.hypot(y, x), 1 / max(width, height))
    noise = generator.standard_normal((3, height, width))
    waves = np.fft.ifft2(np.fft.fft2(noise) / radius).real
    levels = 127 + 40 * (2 * waves[:1] + waves) / (2 * waves[:1] + waves).std()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def encoded_photos(width: int, height: int, format: str) -> list[bytes]:
    """A hundred different ones."""
    generator, files = np.random.default_rng(0), []
    for _ in range(100):
        buffer = io.BytesIO()
        photo(generator, width, height).save(buffer, format, quality=90)
        files.append(buffer.getvalue())
    return files


def folder(
    width: int, height: int, format: str, size: int
) -> Callable[[Path], data.Source]:
    """An image folder, read at size x size."""

    def open(root: Path) -> data.Source:
        files = encoded_photos(width, height, format)
        for i in range(NUM_FILES):
            (root / f"{i:05d}.{format.lower()}").write_bytes(files[i % len(files)])
        return data.open_source("folder", dir=str(root), image_shape=(size, size, 3))

    return open


def example(image: bytes, label: int) -> bytes:
    """A tf.train.Example as it is written to disk (a Protocol Buffers message)."""

    def field(number: int, content: bytes) -> bytes:
        size, varint = len(content), bytearray()
        while size > 127:
            varint.append(size & 127 | 128)
            size >>= 7
        return bytes((number << 3 | 2, *varint, size)) + content

    def feature(key: bytes, value: bytes) -> bytes:
        return field(1, field(1, key) + field(2, value))

    return field(
        1,
        feature(b"id", field(1, field(1, b"train")))
        + feature(b"image", field(1, field(1, image)))
        + feature(b"label", field(3, field(1, bytes((label,))))),
    )


def array_record(root: Path) -> data.Source:
    """CIFAR-10's form, as TFDS prepares it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    zipfile.ZipFile(GOLDEN / "tfds_cifar10.zip").extractall(root)
    (path,) = root.glob("cifar10/*/cifar10-train.array_record*")
    writer = ArrayRecordWriter(str(path), "group_size:1")
    files = encoded_photos(32, 32, "PNG")
    for i in range(NUM_FILES):
        writer.write(example(files[i % len(files)], i % 10))
    writer.close()
    info = path.with_name("dataset_info.json")
    content = json.loads(info.read_text())
    content["splits"][0]["shardLengths"] = [str(NUM_FILES)]
    info.write_text(json.dumps(content))
    return data.open_source("tfds", "train", str(root), "cifar10")


def digits(root: Path) -> data.Source:
    """In memory."""
    return data.open_source("digits")


SMALL = UNetConfig(32, 128, (1, 2, 2), 1, ())
# Its middle block has attention: over 16x16 places.
DEEP = UNetConfig(16, 64, (1, 1, 1, 2, 2), 1, ())
KINDS = (
    Kind(
        "digits, in memory",
        digits,
        UNetConfig(48, 96, (1,), 1, (), 2, patch_size=2),
        64,
    ),
    Kind("32x32 array_record", array_record, UNetConfig(64, 256, (1, 2), 1, ()), 32),
    Kind("64x64 PNG", folder(64, 64, "PNG", 64), SMALL, 32),
    Kind("64x64 JPEG", folder(64, 64, "JPEG", 64), SMALL, 32),
    Kind("500x375 JPEG to 64x64", folder(500, 375, "JPEG", 64), SMALL, 32),
    Kind("256x256 JPEG", folder(256, 256, "JPEG", 256), DEEP, 4),
)


def supply(source: data.Source, batch_size: int, num_workers: int) -> float:
    """Images a second from `data.batches`, once it runs."""
    stop = 1_000_000
    batches = data.batches(
        source, 0, 0, stop, batch_size, True, num_workers=num_workers
    )
    for _ in range(3):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        next(batches)
        count += 1
    seconds = time.perf_counter() - start
    batches.close()
    return count * batch_size / seconds


def demand(kind: Kind, source: data.Source) -> tuple[float, float]:
    """Images a second of steps that reuse a batch, and of steps that are fed."""
    case = Case(kind.net, source.image_shape, kind.batch_size)
    update = case.distillation()
    batches = data.batches(source, 0, 0, 1_000_000, case.batch_size, True)
    held = case.batch
    update()
    seconds: list[tuple[float, float]] = []
    stop = time.perf_counter() + 4 * SECONDS
    while len(seconds) < 3 or time.perf_counter() < stop:
        # What is read ahead while a batch is reused is not read while it is fed: a
        # turn has several steps of each.
        case.batch, start = held, time.perf_counter()
        for _ in range(4):
            update()
        middle = time.perf_counter()
        for _ in range(4):
            case.batch = parallel.shard(next(batches), case.mesh)
            update()
        seconds.append((middle - start, time.perf_counter() - middle))
    batches.close()
    case.batch = held
    alone, fed = np.median(seconds, axis=0)
    return 4 * case.batch_size / alone, 4 * case.batch_size / fed


def row(kind: Kind) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as root:
        source = kind.open(Path(root))
        rates = [supply(source, kind.batch_size, workers) for workers in WORKERS]
        alone, fed = demand(kind, source)
    columns = "".join(f"{rate:10,.0f}" for rate in rates)
    return (
        f"{kind.title:22}{columns}{alone:10,.0f}{rates[-1] / alone:10,.1f}"
        f"{fed / alone:8.2f}"
    )


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_num_cpu_devices", num_cores())
    sources.MAX_BYTES_IN_MEMORY = 0  # so that all but the digits is read from disk
    print(f"{num_cores()} cores, {jax.default_backend()}; images a second")
    workers = "".join(f"{f'{n} workers':>10}" for n in WORKERS)
    print(f"{'':22}{workers}{'step':>10}{'8 / step':>10}{'fed':>8}")
    for kind in KINDS:
        print(row(kind), flush=True)


if __name__ == "__main__":
    main()
