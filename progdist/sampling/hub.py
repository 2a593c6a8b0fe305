"""Models on the Hugging Face Hub, by huggingface_hub; folders of diffusers."""

import re
from collections.abc import Sequence
from pathlib import Path

from progdist.checkpoint import CheckpointError
from progdist.errors import UsageError
from progdist.workdir import files, layout, rows

INDEX = "model_index.json"  # of a pipeline of diffusers
PREFIX = "hf://"
# Nothing else is downloaded, and none of it is executed.
_FILES = ["config.json", "model.safetensors", INDEX]
_WEIGHTS = "diffusion_pytorch_model*"
OF_DIFFUSERS = [
    *("README.md", "scheduler_config.json", "scheduler/scheduler_config.json"),
    *("unet/config.json", f"{_WEIGHTS}.bin", f"unet/{_WEIGHTS}.bin"),
    *(f"{_WEIGHTS}.safetensors*", f"unet/{_WEIGHTS}.safetensors*"),
]
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def download(address: str, others: Sequence[str] = ()) -> Path:
    """Returns the folder of a model on the Hub, downloaded once.

    Args:
      address: hf://OWNER/NAME, or hf://OWNER/NAME@REVISION.
      others: patterns of files that may take the place of those of progdist.

    Raises:
      UsageError: if it is not an address, or huggingface_hub is missing.
      CheckpointError: if the model cannot be downloaded.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UsageError(f"{address}: must be {PREFIX}OWNER/NAME[@REVISION]")
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            f"{address}: needs huggingface_hub; pip install 'progdist[hub]'"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            match[1], revision=match[2], allow_patterns=[*_FILES, *others]
        )
    except Exception as error:  # of the network, the Hub or the disk
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"{address}: could not be downloaded ({reason})"
        ) from None
    if not others and not (Path(folder) / _FILES[1]).is_file():
        check_not_of_diffusers(Path(folder), address)
        raise CheckpointError(f"{address}: holds no {_FILES[1]}")
    return Path(folder)


def is_of_diffusers(path: Path) -> bool:
    """Whether the path is a folder that diffusers wrote: a pipeline or a model."""
    if (path / INDEX).is_file():
        return True
    config = path / "config.json"
    try:
        return "_class_name" in rows.parse(files.read_regular(config), str(config))
    except (OSError, files.FormatError):
        return False


def check_not_of_diffusers(folder: Path, where: str) -> None:
    """Refuses a folder of diffusers, or an export that holds nothing else.

    Args:
      folder: a folder without a model of progdist.
      where: its path or address.

    Raises:
      CheckpointError: with the command that converts it.
    """
    for place, source in (
        (folder, where),
        (folder / layout.DIFFUSERS, f"{where}/{layout.DIFFUSERS}"),
    ):
        if is_of_diffusers(place):
            kind = "pipeline" if (place / INDEX).is_file() else "network"
            raise CheckpointError(
                f"{source}: is a {kind} of diffusers; convert it first: progdist "
                f"convert {source} --out=DIR"
            )
