"""Models in single files: released flax train states, and exported safetensors."""

from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import numpy as np

from progdist.checkpoint.digests import CheckpointError, first_difference, leaves_of
from progdist.checkpoint.trees import Params

_SAFE = ".safetensors"
_NUMBERS = "num_steps", "phase", "num_classes"  # fields of a card; stored as strings


def read_params(path: Path, shapes: Params) -> Params:
    """Reads the parameters in a file, without axes of size 1.

    The normalisations of released flax files have such axes. From these files
    `ema_params` are read.

    Args:
      path: a .safetensors file, or a flax msgpack file.
      shapes: a tree of arrays or of their shapes, which the file must match except for
        axes of size 1.

    Raises:
      CheckpointError: if it cannot be read, or belongs to another network.
    """
    leaves = _read_safe(path) if path.suffix == _SAFE else _read_flax(path)
    _check_shapes(path, leaves, shapes)
    return flax.traverse_util.unflatten_dict(leaves, "/")


def read_card(path: Path) -> dict[str, Any]:
    """Returns the card of a file; empty for a flax file.

    Raises:
      CheckpointError: if a .safetensors file is malformed.
    """
    if path.suffix != _SAFE:
        return {}
    with _safe_open(path) as file:
        notes = file.metadata() or {}
    return {n: int(v) if n in _NUMBERS and _is_int(v) else v for n, v in notes.items()}


def _read_flax(path: Path) -> dict[str, np.ndarray]:
    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())["ema_params"]
        leaves = flax.traverse_util.flatten_dict(tree, sep="/")
        return {name: np.squeeze(np.asarray(x)) for name, x in leaves.items()}
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: not a flax msgpack file with ema_params ({error})"
        ) from None


def _read_safe(path: Path) -> dict[str, np.ndarray]:
    with _safe_open(path) as file:
        try:
            names = file.keys()
            return {name: np.squeeze(file.get_tensor(name)) for name in names}
        except (TypeError, ValueError) as error:  # a dtype that numpy lacks
            raise CheckpointError(f"{path}: not parameters ({error})") from None


def _safe_open(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise CheckpointError(
            f"{path}: needs safetensors; pip install 'progdist[export]'"
        ) from None
    try:
        return safe_open(path, "numpy")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from None


def _is_int(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _check_shapes(path: Path, leaves: dict[str, np.ndarray], template: Params) -> None:
    """Refuses parameters of another network; names the first leaf that differs."""
    theirs = {name: leaf.shape for name, leaf in leaves.items()}
    ours = {
        name: tuple(n for n in leaf.shape if n != 1)
        for name, leaf in leaves_of(template).items()
    }
    name = first_difference(theirs, ours)
    if name is not None:
        raise CheckpointError(
            f"{path}: {name} has shape {theirs.get(name, 'none')}, but the configured "
            f"network has {ours.get(name, 'none')}"
        )
