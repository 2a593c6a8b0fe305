"""Samples images from any finished round of a run.

  python -m progdist.sample --workdir=runs/digits --num_steps=4 --out=grid.png

--out is a grid (.png), all images (.npz: uint8 `arr_0`, and `labels`), or a directory
(with a trailing /) that gets one PNG per image, for tools such as pytorch-fid.

Image i depends only on the seed and on i. Exit codes: 0 done; 2 bad input, in one line.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from absl import flags
from jaxtyping import UInt8

from progdist import checkpoint, cli, parallel, preflight, report
from progdist.config import Config
from progdist.diffusion import solvers
from progdist.diffusion.settings import SolverName
from progdist.errors import UsageError, exit_with
from progdist.evaluate import sampling
from progdist.model import param_template
from progdist.workdir import arrays, files

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_steps", None, "Network calls per image.", 1, cli.MOST_STEPS, flag_values=FLAGS
)
flags.DEFINE_integer("num", 64, "Number of images.", 1, flag_values=FLAGS)
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
_SUFFIXES = (".png", ".npz")


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
    config: Config, workdir: Path, request: Request
) -> Iterator[UInt8[np.ndarray, "b *d"]]:
    """Yields batches from the finished round with `num_steps` steps, or the teacher.

    Raises:
      CheckpointError: if there is no such finished round.
    """
    batch_size = config.evaluation.batch_size
    mesh = parallel.make_mesh(parallel.devices_sharing(batch_size))
    path = checkpoint.find_model(
        workdir, None if request.teacher else request.num_steps
    )
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
    )


def main(argv: list[str]) -> None:
    """Draws the samples described by the flags."""
    cli.parse(FLAGS, argv, __doc__, required=("workdir", "num_steps", "out"))
    values: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS}
    out, one_each = files.expand(values["out"]), values["out"].endswith("/")
    _check_out(out, one_each)
    workdir, config = preflight.open_run(values["workdir"])
    cli.prepare_devices(config)
    request = Request(*(values[name] for name in Request._fields))
    try:
        solvers.check_calls(request.sampler, request.num_steps)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if one_each:
        _write_each(out, draw_batches(config, workdir, request))
    elif out.suffix == ".png":
        report.save_png(out, report.square_grid(draw(config, workdir, request)))
    else:
        images = draw(config, workdir, request)
        labels = sampling.labels_of(request.num, config.net.num_classes)
        arrays.write_images(out, images, labels)
    print(f"{_many(request.num, 'image')} in {_many(request.num_steps, 'step')}: {out}")


def _write_each(out: Path, batches: Iterator[UInt8[np.ndarray, "b h w c"]]) -> None:
    """Writes image i as i.png, all or none, with one batch in memory at a time."""
    with files.whole_directory(out) as part:
        for i, image in enumerate(itertools.chain.from_iterable(batches)):
            report.save_png(part / f"{i:06}.png", image)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s'[: count != 1]}"


def _check_out(out: Path, one_each: bool) -> None:
    if one_each and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out={out}/: exists and is not empty")
    if not one_each and (out.suffix not in _SUFFIXES or out.is_dir()):
        accepted = ", ".join(_SUFFIXES)
        raise UsageError(f"--out={out}: must be a file in {accepted}, or end in /")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out={out}: there is no directory {out.parent}")


if __name__ == "__main__":
    exit_with(main, sys.argv)
