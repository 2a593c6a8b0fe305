"""Samples images from any finished round of a run.

  python -m progdist.sample --workdir=runs/digits --num_steps=4 --out=grid.png

--out is a grid (.png), all images (.npz: uint8 `arr_0`, and `labels`), or a directory
(with a trailing /) that gets one PNG per image, for tools such as pytorch-fid. A
directory also gets request.json and, with classes, dataset.json; a command that was
interrupted continues there, as does one for more images.

Image i depends only on the seed and on i. Exit codes: 0 done; 2 bad input, in one line;
3 images that are not finite; 4 something could not be written; 128 + n stopped by
signal n.
"""

import itertools
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from absl import flags
from jaxtyping import UInt8

from progdist import checkpoint, cli, parallel, preflight, report
from progdist.checkpoint import digests
from progdist.config import Config
from progdist.data.progress import counting
from progdist.data.settings import ImageShape
from progdist.diffusion import solvers
from progdist.diffusion.settings import SolverName
from progdist.errors import UsageError, exit_with
from progdist.evaluate import sampling
from progdist.model import param_template
from progdist.trainer.preemption import Interrupt, Interrupted
from progdist.workdir import arrays, files
from progdist.workdir.image_folder import ImageFolder

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_steps", None, "Network calls per image.", 1, cli.MOST_STEPS, flag_values=FLAGS
)
flags.DEFINE_integer("num", 64, "Number of images.", 1, 10**9, flag_values=FLAGS)
flags.DEFINE_integer(
    "seed", 0, "Random seed of the initial noise.", 0, 2**32 - 1, flag_values=FLAGS
)
flags.DEFINE_string(
    "out", None, "Output: grid.png, all.npz or images/.", flag_values=FLAGS
)
flags.DEFINE_enum(
    "sampler", "ddim", get_args(SolverName), "Sampler.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "teacher", False, "Sample from the undistilled teacher.", flag_values=FLAGS
)
flags.DEFINE_bool(
    "overwrite", False, "Replace the images in a directory.", flag_values=FLAGS
)
_SUFFIXES = (".png", ".npz")
_MAX_GRID_IMAGES, _MAX_GRID_PIXELS = 1 << 10, 1 << 26
_GRACE_SECONDS = 3.0  # for a batch that a signal interrupts
_RESUMES = "the same command resumes"

Batches = Iterator[UInt8[np.ndarray, "b h w c"]]


class Request(NamedTuple):
    """A request for num images in num_steps network calls each, from a seed."""

    num_steps: int
    num: int
    seed: int
    sampler: SolverName
    teacher: bool


def draw(config: Config, workdir: Path, request: Request) -> UInt8[np.ndarray, "n *d"]:
    """Returns the images of `draw_batches` as one array."""
    return np.concatenate(list(draw_batches(config, workdir, request)))


def draw_batches(
    config: Config, workdir: Path, request: Request, start: int = 0
) -> Batches:
    """Yields batches from the finished round with `num_steps` steps, or the teacher.

    Args:
      config: configuration of the run.
      workdir: directory of the run.
      request: the images.
      start: number of the first image.

    Raises:
      CheckpointError: if there is no such finished round.
    """
    batch_size = config.evaluation.batch_size
    mesh = parallel.make_mesh(parallel.devices_sharing(batch_size))
    path = _model_path(workdir, request)
    model = preflight.open_model(config, path)
    params = checkpoint.load_model(path, param_template(model, mesh))
    return sampling.draw_images(
        sampling.make_sampler(model, mesh, request.sampler, config.evaluation.gamma),
        params,
        request.seed,
        request.num,
        request.num_steps,
        batch_size,
        mesh,
        start,
    )


def main(argv: list[str]) -> None:
    """Draws the samples described by the flags."""
    cli.parse(FLAGS, argv, __doc__, required=("workdir", "num_steps", "out"))
    values: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS}
    request = Request(*(values[name] for name in Request._fields))
    out, one_each = files.expand(values["out"]), values["out"].endswith("/")
    _check_out(out, one_each)
    workdir, config = preflight.open_run(values["workdir"])
    try:
        solvers.check_calls(request.sampler, request.num_steps)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not one_each:
        _check_size(out, request.num, config.data.image_shape)
    cli.prepare_devices(config)
    if one_each:
        _write_each(out, config, workdir, request, values["overwrite"])
    else:
        _write_file(out, config, workdir, request)
    print(f"{_many(request.num, 'image')} in {_many(request.num_steps, 'step')}: {out}")


def _write_file(out: Path, config: Config, workdir: Path, request: Request) -> None:
    """Writes a grid or an array, once all images are drawn."""
    num = request.num
    images, first = np.empty((num, *config.data.image_shape), np.uint8), 0
    with (
        Interrupt(_GRACE_SECONDS, "", "nothing was written") as interrupt,
        counting("sampling", num) as advance,
    ):
        for batch in draw_batches(config, workdir, request):
            if interrupt.received:
                interrupt.heard()
                sys.exit(128 + interrupt.received)
            images[first : first + len(batch)] = batch
            first += len(batch)
            advance(len(batch))
    if out.suffix == ".png":
        report.save_png(out, report.square_grid(images))
    else:
        labels = sampling.labels_of(num, config.net.num_classes)
        arrays.write_images(out, images, labels)


def _write_each(
    out: Path, config: Config, workdir: Path, request: Request, overwrite: bool
) -> None:
    """Writes image i as i.png, unless it is there; with one batch in memory."""
    folder = ImageFolder(out, _identity(config, workdir, request), request.num)
    kept = folder.check(overwrite)
    if kept < request.num:
        start = kept - kept % config.evaluation.batch_size
        with Interrupt(_GRACE_SECONDS, "", _RESUMES) as interrupt:
            batches = draw_batches(config, workdir, request, start)
            _write_rest(folder, kept, start, batches, interrupt)
    folder.finish(sampling.labels_of(request.num, config.net.num_classes))


def _write_rest(
    folder: ImageFolder, kept: int, start: int, batches: Batches, interrupt: Interrupt
) -> None:
    """Writes the images that are missing.

    Args:
      folder: where they are written, once the first batch has been drawn.
      kept: number of the first images that are there.
      start: number of the first image of the batches.
      batches: the images.
      interrupt: listener for signals.

    Raises:
      Interrupted: after a signal.
    """
    images = itertools.chain(next(batches), itertools.chain.from_iterable(batches))
    folder.begin(kept)
    with counting("sampling", folder.num - kept) as advance:
        for number, image in enumerate(images, start):
            if interrupt.received:
                interrupt.heard()
                where = f"with {max(number, kept):,} of {folder.num:,} images written"
                raise Interrupted(interrupt.received, where)
            if number >= kept:
                with interrupt.busy():
                    report.save_png(folder.image_path(number), image)
                advance(1)


def _identity(config: Config, workdir: Path, request: Request) -> dict[str, Any]:
    """Returns all that the images depend on, as plain data."""
    card = checkpoint.read_card(_model_path(workdir, request))
    ancestral = request.sampler == "ancestral"
    return {
        "num_steps": request.num_steps,
        "seed": request.seed,
        "sampler": request.sampler,
        "gamma": config.evaluation.gamma if ancestral else None,
        "model": digests.seal(card["content"]),
        "image_shape": list(config.data.image_shape),
        "num_classes": config.net.num_classes,
    }


def _model_path(workdir: Path, request: Request) -> Path:
    num_steps = None if request.teacher else request.num_steps
    return checkpoint.find_model(workdir, num_steps)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s'[: count != 1]}"


def _check_out(out: Path, one_each: bool) -> None:
    """Refuses a path that cannot be written, before anything is read."""
    accepted = ", ".join(_SUFFIXES)
    if one_each and out.exists() and not out.is_dir():
        raise UsageError(f"--out={out}/: is not a directory")
    if not one_each and (out.suffix not in _SUFFIXES or out.is_dir()):
        raise UsageError(f"--out={out}: must be a file in {accepted}, or end in /")
    parent = out if one_each and out.is_dir() else out.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise UsageError(f"--out={out}: {error.strerror}") from None


def _check_size(out: Path, num: int, shape: ImageShape) -> None:
    """Refuses a grid that no viewer opens, and arrays that cannot be read again."""
    if out.suffix == ".png":
        scale = report.least_upscale(*shape[:2])
        num_pixels = num * math.prod(shape[:2]) * scale**2
        if num > _MAX_GRID_IMAGES or num_pixels > _MAX_GRID_PIXELS:
            size = f"{num:,} images of {shape[0]}x{shape[1]}"
            raise UsageError(
                f"--num={num}: {size} are too many for a grid; choose --out=NAME.npz "
                "or --out=NAME/"
            )
        return
    limit = min(
        arrays.MAX_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if num * math.prod(shape) > limit:
        raise UsageError(
            f"--num={num}: takes more than {limit >> 30} GiB; choose --out=NAME/"
        )


if __name__ == "__main__":
    exit_with(main, sys.argv)
