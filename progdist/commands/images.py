"""Images of a model, written to a picture, an array or a directory."""

import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from progdist import report
from progdist.config.settings import ImageShape
from progdist.data import to_uint8
from progdist.data.progress import counting
from progdist.diffusion.settings import Clip, SolverName
from progdist.errors import Interrupted, UsageError
from progdist.sampling.draw import labels_of
from progdist.sampling.pretrained import Images, Pretrained
from progdist.trainer.preemption import Interrupt
from progdist.workdir import arrays, files
from progdist.workdir.image_folder import ImageFolder
from progdist.workdir.provenance import memory_bytes

_ANIMATION = ".gif"
_MAX_STATES = 1 << 31  # bytes of an animation's states
_MAX_COLUMNS = 16  # of a label's images in a picture
_GRACE_SECONDS = 3.0  # for a batch that a signal interrupts
_RESUMES = "the same command resumes"


class Request(NamedTuple):
    """A request for images; the fields are arguments of `Pretrained.sample`."""

    num: int
    labels: tuple[int, ...]
    seed: int
    sampler: SolverName
    gamma: float
    batch_size: int
    clip: Clip = "recompute"

    def batches(
        self, model: Pretrained, start: int, advance: Callable[[int], None]
    ) -> Iterator[Images]:
        """Returns the images from `start` on, in batches."""
        fields = self._asdict() | {"start": start, "advance": advance}
        label = fields.pop("labels") or None
        return model.batches(fields.pop("num"), label=label, **fields)


class Out(NamedTuple):
    """Destination of images.

    Attributes:
      path: path of a file or directory.
      one_each: whether it is a directory that gets a file per image.
    """

    path: Path
    one_each: bool

    def __str__(self) -> str:
        """Returns the path."""
        return str(self.path)


def check_path(text: str) -> Out:
    """Returns the destination of images.

    Args:
      text: path of a file, or of a directory with a trailing /.

    Raises:
      UsageError: if it cannot be written.
    """
    path, one_each = files.expand(text), text.endswith("/")
    if one_each and path.exists() and not path.is_dir():
        raise UsageError(f"--out={path}/: is not a directory")
    accepted = ".npz", *report.picture_suffixes()
    if not one_each and (path.suffix.lower() not in accepted or path.is_dir()):
        raise UsageError(
            f"--out={path}: must be an image (.png, .jpg, .webp, .gif, .tiff or "
            "another image suffix), .npz, or end in /"
        )
    parent = path if one_each and path.is_dir() else path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"--out={path}: there is no directory {path.parent}")
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise UsageError(f"--out={path}: {error.strerror}") from None
    return Out(path, one_each)


def write(model: Pretrained, request: Request, out: Out, overwrite: bool) -> None:
    """Draws the images and writes them.

    Raises:
      UsageError: if there are too many for the file, or the directory holds others
        which are not to be overwritten.
      Interrupted: after a signal, if the command resumes.
    """
    model.check_sampler(request.sampler)
    if out.one_each:
        _write_each(out.path, model, request, overwrite)
        return
    check_size(out.path, request.num, len(request.labels), model.image_shape)
    if out.path.suffix.lower() == _ANIMATION:
        _write_animation(out.path, model, request)
        return
    images = _collect(model, request)
    if out.path.suffix.lower() == ".npz":
        notes: dict[str, Any] = _notes(model, request)
        arrays.write_images(out.path, images, _labels(model, request), **notes)
    else:
        grid = _grid(model, request, images)
        report.save_image(out.path, grid, _notes(model, request))


def _collect(model: Pretrained, request: Request) -> UInt8[np.ndarray, "n h w c"]:
    """Returns all images; exits after a signal."""
    images = np.empty((request.num, *model.image_shape), np.uint8)
    first = 0
    with (
        Interrupt(_GRACE_SECONDS, "", "nothing was written") as interrupt,
        counting("sampling", request.num) as advance,
    ):

        def advance_or_exit(count: int) -> None:
            if interrupt.received:
                interrupt.heard()
                sys.exit(128 + interrupt.received)
            advance(count)

        for batch in request.batches(model, 0, advance_or_exit):
            images[first : first + len(batch)] = batch
            first += len(batch)
    return images


def _write_each(
    path: Path, model: Pretrained, request: Request, overwrite: bool
) -> None:
    """Writes image i as i.png, unless it is there; with one batch in memory."""
    folder = ImageFolder(path, _identity(model, request), request.num)
    kept = folder.check(overwrite)
    if kept < request.num:
        with Interrupt(_GRACE_SECONDS, "", _RESUMES) as interrupt:
            _write_rest(folder, kept, model, request, interrupt)
    folder.finish(_labels(model, request))


def _write_rest(
    folder: ImageFolder,
    kept: int,
    model: Pretrained,
    request: Request,
    interrupt: Interrupt,
) -> None:
    """Writes the images that are missing.

    Args:
      folder: where they are written, once the first batch has been drawn.
      kept: number of the first images that are there.
      model: the model.
      request: the images.
      interrupt: listener for signals.

    Raises:
      Interrupted: after a signal.
    """
    start, written = kept - kept % request.batch_size, kept
    with counting("sampling", folder.num - start) as advance:

        def advance_or_stop(count: int) -> None:
            if interrupt.received:
                interrupt.heard()
                where = f"with {written:,} of {folder.num:,} images written"
                raise Interrupted(interrupt.received, where)
            advance(count)

        batches = request.batches(model, start, advance_or_stop)
        images = itertools.chain(next(batches), itertools.chain.from_iterable(batches))
        folder.begin(kept)
        for number, image in enumerate(images, start):
            advance_or_stop(0)
            if number >= kept:
                with interrupt.busy():
                    report.save_png(folder.image_path(number), image)
                written = number + 1


def _identity(model: Pretrained, request: Request) -> dict[str, Any]:
    """Returns all that the images depend on, as plain data."""
    ancestral, precision = request.sampler == "ancestral", model.model.precision
    return {
        "num_steps": model.num_steps,
        "seed": request.seed,
        "sampler": request.sampler,
        "gamma": request.gamma if ancestral else None,
        "model": model.digest,
        # None for the default, as in the rows of evaluations.
        "precision": None if precision == "default" else precision,
        "image_shape": list(model.image_shape),
        "num_classes": model.num_classes,
        "labels": list(request.labels),
        **_clipping(request),
    }


def _clipping(request: Request) -> dict[str, str]:
    """Returns the clipping, if it is not the default of a sampler that clips."""
    ok = request.sampler in ("ddim", "ancestral") and request.clip != "recompute"
    return {"clip": request.clip} if ok else {}


def _labels(model: Pretrained, request: Request) -> Any:
    """Returns the classes of the images; None without classes."""
    if not model.num_classes:
        return None
    return labels_of(np.arange(request.num), model.num_classes, request.labels)


def check_size(path: Path, num: int, num_labels: int, shape: ImageShape) -> None:
    """Refuses a picture that no viewer opens, and arrays that cannot be read again.

    Args:
      path: the file.
      num: number of images.
      num_labels: number of classes with rows of their own; 0 for none.
      shape: (height, width, channels) of an image.

    Raises:
      UsageError: naming the number.
    """
    if path.suffix.lower() != ".npz":
        moving = path.suffix.lower() == _ANIMATION
        rows, columns = _sides(num, 0 if moving else num_labels)
        if not report.fits_picture(path.suffix, rows, columns, *shape[:2], moving):
            size = f"{num:,} images of {shape[0]}x{shape[1]}"
            raise UsageError(
                f"--num={num}: {size} are too many for a {path.suffix} picture; choose "
                "--out=NAME.npz or --out=NAME/"
            )
        return
    limit = min(arrays.MAX_BYTES, memory_bytes())
    if num * math.prod(shape) > limit:
        raise UsageError(
            f"--num={num}: takes more than {limit >> 30} GiB; choose --out=NAME/"
        )


def _write_animation(path: Path, model: Pretrained, request: Request) -> None:
    """Writes the images on their way from noise, by DDIM."""
    num_bytes = 4 * (model.num_steps + 1) * request.num * math.prod(model.image_shape)
    if request.sampler != "ddim":
        raise UsageError(f"--sampler={request.sampler}: animations need --sampler=ddim")
    if num_bytes > _MAX_STATES:
        raise UsageError(f"--num={request.num}: too many for an animation of all steps")
    label = request.labels or None
    with counting("sampling", 1):
        states = model.trajectory(
            request.num, label=label, seed=request.seed, clip=request.clip
        )
    frames = np.stack([to_uint8(z) for z in states])
    report.save_gif(path, frames, _notes(model, request))


def _grid(
    model: Pretrained, request: Request, images: UInt8[np.ndarray, "n h w c"]
) -> UInt8[np.ndarray, "H W c"]:
    """Returns all images in a picture, those of a label in rows of their own."""
    labels, blank = request.labels, np.full(images.shape[1:], 255, np.uint8)
    if not labels:
        return report.square_grid(images)
    rows, columns = _sides(request.num, len(labels))
    each = rows // len(labels)
    cells = np.broadcast_to(blank, (len(labels), each * columns, *blank.shape)).copy()
    for number, row in enumerate(cells):
        ours = images[number :: len(labels)]
        row[: len(ours)] = ours
    names = [""] * rows
    names[::each] = [model.class_names[label] for label in labels]
    return report.label_rows(cells.reshape(rows, columns, *blank.shape), names)


def _sides(num: int, num_labels: int) -> tuple[int, int]:
    """Returns rows and columns of a picture; a label has whole rows."""
    if not num_labels:
        return report.square_sides(num)
    each = -(-num // num_labels)
    columns = each
    if num_labels == 1 or each > _MAX_COLUMNS:
        columns = min(each, math.ceil(math.sqrt(num)))
    return num_labels * -(-each // columns), columns


def _notes(model: Pretrained, request: Request) -> dict[str, str]:
    """Returns what a picture notes about itself."""
    names = ", ".join(model.class_names[label] for label in request.labels)
    notes = {
        "software": f"progdist {version('progdist')}",
        "model": model.digest,
        "num_steps": str(model.num_steps),
        "sampler": request.sampler,
        "seed": str(request.seed),
        "num": str(request.num),
        **_clipping(request),
    }
    if request.sampler == "ancestral":
        notes["gamma"] = f"{request.gamma:g}"
    return notes | ({"label": names} if names else {})
