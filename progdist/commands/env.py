"""Prints versions, devices and caches: what a bug report needs.

  progdist env
  progdist env --nodevices

Opens the devices, unless --nodevices.

Exit codes: 0 done; 2 there is no device of the kind that JAX_PLATFORMS names; 5 a
device is in use.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from progdist.commands.parser import Flags
from progdist.workdir import files

_OPTIONAL = (
    "tensorflow-datasets",
    "array-record",
    "diffrax",
    "jax2onnx",
    "onnxruntime",
    "safetensors",
    "huggingface_hub",
    "ndf",
)
_VARIABLES = re.compile(r"JAX_|XLA_|LIBTPU_|TPU_|CUDA_VISIBLE|NVIDIA_TF32")


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags()
    flags.switch("devices", "Do not open the devices.", default=True)
    return flags


def main(argv: list[str]) -> None:
    """Prints one line for each fact."""
    values = define_flags().parse(argv, __doc__)
    for name, text in _facts():
        print(f"{name:22} {text}", flush=True)
    if values["devices"]:
        from progdist.commands import devices
        from progdist.config import Config

        devices.prepare(Config())
        for line in devices.summary():
            print(f"{'devices':22} {line}")


def _facts() -> Iterator[tuple[str, str]]:
    from progdist.workdir import provenance

    yield "progdist", metadata.version("progdist")
    yield "commit", provenance.commit() or "none: an installed package"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield (
        "cores, memory",
        f"{os.cpu_count()}, {provenance.memory_bytes() / 2**30:.1f} GiB",
    )
    for name, version in provenance.versions().items():
        if name != "progdist":
            yield name, version
    for name in _OPTIONAL:
        yield name, _version(name)
    for name in sorted(filter(_VARIABLES.match, os.environ)):
        yield name, os.environ[name]
    directory = files.cache_dir()
    yield "cache", f"{directory}, {_size(directory) / 1e6:,.0f} MB"
    yield "free disk space", f"{shutil.disk_usage(Path.cwd()).free / 1e9:,.1f} GB here"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _size(directory: Path) -> int:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in paths)
