"""Exports a finished round of a run to files that run without this package.

  python -m progdist.export --workdir=runs/digits --num_steps=4 --out=exported/digits4

Creates the directory --out, which must not exist, by default with all of
  sampler.jax.zip     for jax.export, on cpu, cuda and tpu
  sampler.onnx        for onnxruntime and others
  params.safetensors  the parameters alone
each with a card: N, schedule, parameterization, image shape, commit. The directory
appears complete or not at all. Needs pip install 'progdist[export]'. Exit codes:
0 done; 2 bad input, in one line; 4 could not be written.
"""

import dataclasses
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from progdist import checkpoint, cli, parallel, preflight
from progdist.config import Config
from progdist.diffusion.schedules import describe
from progdist.errors import UsageError, exit_with
from progdist.export import formats
from progdist.export.formats import FORMATS, Card
from progdist.model import Model, Params, param_template
from progdist.workdir import files, provenance

_LEVEL = 2 / 255  # one byte level in [-1, 1]

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "Directory of the run.", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_steps",
    None,
    "Number of sampling steps; selects the round trained for it.",
    1,
    cli.MOST_STEPS,
    flag_values=FLAGS,
)
flags.DEFINE_string("out", None, "Directory to create.", flag_values=FLAGS)
flags.DEFINE_list("formats", list(FORMATS), "Formats to write.", flag_values=FLAGS)
flags.DEFINE_bool(
    "teacher",
    False,
    "Export the undistilled base model instead, sampled in --num_steps steps.",
    flag_values=FLAGS,
)


def write(
    config: Config, model_path: Path, num_steps: int, out: Path, names: Sequence[str]
) -> float | None:
    """Writes the files of a model, as a directory that appears complete or not at all.

    Returns:
      The largest difference between images of the JAX and the ONNX sampler, if both
      are written.

    Raises:
      CheckpointError: if the model cannot be read.
      ConfigError: if it has another parameterization or schedule.
      UsageError: if a format cannot hold it.
      SaveError: if the two samplers draw different images.
    """
    config = dataclasses.replace(config, net=config.net.portable())
    model = preflight.open_model(config, model_path)
    origin = checkpoint.read_card(model_path)
    template = param_template(model, parallel.make_mesh(jax.devices()[:1]))
    params = checkpoint.load_model(model_path, template)
    params = jax.tree.map(np.asarray, params)
    card = _card(config, model, origin.get("phase", 0), params, num_steps)
    if "class_names" in origin:
        card["class_names"] = origin["class_names"]
    out.parent.mkdir(parents=True, exist_ok=True)
    difference = None
    with files.whole_directory(out) as part:
        _write_files(part, model, params, card, names)
        if {"jax", "onnx"} <= set(names):
            difference = formats.largest_difference(part, model)
            if not difference <= _LEVEL:
                raise checkpoint.SaveError(
                    f"{out}: not written, since the images of the ONNX sampler differ "
                    f"from those of JAX by {difference:.1e}"
                )
    return difference


def main(argv: list[str]) -> None:
    """Exports the model described by the flags."""
    cli.parse(FLAGS, argv, __doc__, required=("workdir", "num_steps", "out"))
    values: dict[str, Any] = {name: FLAGS[name].value for name in FLAGS}
    out, names = files.expand(values["out"]), values["formats"]
    _check_formats(names)
    if out.exists():
        raise UsageError(f"--out={out}: already exists and is not overwritten")
    workdir, config = preflight.open_run(values["workdir"])
    num_steps = values["num_steps"]
    model = checkpoint.find_model(workdir, None if values["teacher"] else num_steps)
    cli.prepare_devices(config)
    difference = write(config, model, num_steps, out, names)
    for path in sorted(out.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")
    if difference is not None:
        print(f"the images of JAX and ONNX differ by at most {difference:.1e}")


def _card(
    config: Config, model: Model, phase: int, params: Params, num_steps: int
) -> Card:
    return {
        "sampler": "ddim",
        "num_steps": num_steps,
        "schedule": describe(model.schedule),
        "output": model.parameterization,
        "image_shape": list(config.data.image_shape),
        "num_classes": config.net.num_classes,
        "phase": phase,
        "params": checkpoint.fingerprint_of(params)[:16],  # as in eval.jsonl
        "commit": provenance.commit() or version(),
        "jax": jax.__version__,
    }


def _write_files(
    directory: Path, model: Model, params: Params, card: Card, names: Sequence[str]
) -> None:
    if "safetensors" in names:
        formats.write_safetensors(directory / formats.PARAMS_NAME, params, card)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > formats.MOST_BYTES and {"jax", "onnx"} & set(names):
        raise UsageError(
            f"--formats={','.join(names)}: {size:,} bytes of parameters; the files "
            f"of jax and onnx hold at most {formats.MOST_BYTES:,}"
        )
    if "jax" in names:
        formats.write_jax(directory / formats.JAX_NAME, model, params, card)
    if "onnx" in names:
        formats.write_onnx(directory / formats.ONNX_NAME, model, params, card)


def _check_formats(names: Sequence[str]) -> None:
    """Refuses unknown formats, and those whose packages are missing."""
    for name in names:
        if name not in FORMATS:
            known = ", ".join(FORMATS)
            raise UsageError(f"--formats={name}: must be one of {known}")
        for package in FORMATS[name]:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"--formats={name}: needs {package}; pip install 'progdist[export]'"
                )
    if not names:
        raise UsageError("--formats: must name at least one")


def version() -> str:
    """Returns the name and version of the package."""
    return f"progdist {importlib.metadata.version('progdist')}"


if __name__ == "__main__":
    exit_with(main, sys.argv)
