"""Exports a model to files that run without this package, or are easy to share.

  progdist export runs/digits --steps=4 --out=exported/digits4
  progdist export runs/digits --steps=1 --out=exported/one --formats=hub,onnx
  progdist export runs/ddpm --steps=4 --out=exported/ddpm4 --formats=diffusers

Creates the directory --out, by default with all of these but diffusers/:
  sampler.jax.zip     for jax.export (jax and flatbuffers), on cpu, cuda and tpu
  sampler.onnx        for onnxruntime and others
  params.safetensors  the parameters alone
  hub/                config.json, model.safetensors and README.md with samples, as the
                      Hugging Face Hub expects them
  diffusers/          a folder for DDIMPipeline.from_pretrained, of a model with
                      diffusers' network, as progdist convert makes them
All but diffusers/ carry the model's card: N, network, schedule, classes, data,
distances, commit; progdist.load opens them, and progdist convert opens diffusers/. The
directory appears complete or not at all.
Needs pip install 'progdist[export]'.

Exit codes: 0 done; 2 bad input, in one line; 4 the export could not be written.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from progdist.commands.parser import Flags
from progdist.errors import UsageError
from progdist.plan import MOST_STEPS
from progdist.workdir import files, layout

# Packages that each format needs beyond the package's own requirements: of the formats
# written by default, and of those written where they are named.
FORMATS = {
    "jax": ("flatbuffers",),
    "onnx": ("jax2onnx", "onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
    "hub": ("safetensors",),
}
NAMED_FORMATS = {"diffusers": ("safetensors",)}


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir")
    flags.text("workdir", "Run or model to export.")
    about = "Network calls per image; selects the round of a run. Also --steps."
    flags.number("num_steps", about, low=1, high=MOST_STEPS)
    flags.text("out", "Directory to create.")
    about = f"Formats to write, of {', '.join(FORMATS | NAMED_FORMATS)}; by default all"
    about += f" but {', '.join(NAMED_FORMATS)}."
    flags.texts("formats", about, list(FORMATS))
    about = "Export the undistilled teacher of a run, sampled in --num_steps steps."
    flags.switch("teacher", about)
    flags.switch("overwrite", "Replace an earlier export in that directory.")
    return flags


def main(argv: list[str]) -> None:
    """Exports the model that the command line describes."""
    values = define_flags().parse(argv, __doc__, "workdir", "out")
    out, names = files.expand(values["out"]), values["formats"]
    _check_formats(names)
    _check_out(out, values["overwrite"])

    from progdist.commands import devices
    from progdist.export.write import write
    from progdist.sampling.pretrained import BATCH_SIZE, load

    devices.prepare_for_sampling(BATCH_SIZE)
    model = load(values["workdir"], values["num_steps"], teacher=values["teacher"])
    difference = write(model, out, names)
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        print(f"{path}: {path.stat().st_size:,} bytes")
    if difference is not None:
        print(f"the images of JAX and ONNX differ by at most {difference:.1e}")


def _check_formats(names: Sequence[str]) -> None:
    """Refuses unknown formats, and those whose packages are missing."""
    packages = FORMATS | NAMED_FORMATS
    for name in names:
        if name not in packages:
            known = ", ".join(packages)
            raise UsageError(f"--formats={name}: must be one of {known}")
        for package in packages[name]:
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"--formats={name}: needs {package}; pip install 'progdist[export]'"
                )
    if not names:
        raise UsageError("--formats: must name at least one")


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuses a directory that must not be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise UsageError(f"--out={out}: already exists; --overwrite replaces an export")
    strangers = sorted({path.name for path in _entries(out)} - set(layout.EXPORTS))
    if strangers:
        raise UsageError(f"--out={out}: holds {strangers[0]}, which no export writes")


def _entries(out: Path) -> list[Path]:
    try:
        return list(out.iterdir())
    except NotADirectoryError:
        raise UsageError(f"--out={out}: is not a directory") from None
