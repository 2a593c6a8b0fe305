"""Models in single files: released flax train states, and exported safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from progdist.checkpoint.digests import CheckpointError, first_difference, leaves_of
from progdist.checkpoint.trees import Params
from progdist.errors import escaped, reason_of

_SAFE = ".safetensors"
# Fields of a card that are not text; a safetensors file stores them as JSON.
_VALUES = (
    "num_steps",
    "phase",
    "num_classes",
    "image_shape",
    "class_names",
    "net",
    "precision",
    "data",
    "versions",
    "distances",
)


def read(path: Path, shapes: Params) -> tuple[Params, dict[str, Any]]:
    """Reads parameters without axes of size 1, and the card of the file.

    The normalisations of released flax files have such axes. From these files
    `ema_params` are read; they have no card, but a student's number of steps is known.

    Args:
      path: a .safetensors file, or a flax msgpack file.
      shapes: a tree of arrays or of their shapes, which the file must match except for
        axes of size 1.

    Raises:
      CheckpointError: if it cannot be read, belongs to another network, or holds a
        parameter that is not finite.
    """
    is_safe = path.suffix == _SAFE
    leaves, card = _read_safe(path) if is_safe else _read_flax(path)
    _check_shapes(path, leaves, shapes)
    check_finite(path, leaves)
    return flax.traverse_util.unflatten_dict(leaves, "/"), card


def read_card(path: Path) -> dict[str, Any]:
    """Returns the card of a .safetensors file.

    Raises:
      CheckpointError: if the file is not one, or has no card.
    """
    if path.suffix != _SAFE:
        raise CheckpointError(f"{path}: has no card; only {_SAFE} files have one")
    with open_safe(path) as file:
        card = _card(file)
    if type(card.get("num_steps")) is not int:
        raise CheckpointError(f"{path}: has no card of progdist")
    return card


def check_finite(path: Path | str, leaves: Mapping[str, Any]) -> None:
    """Refuses parameters that are NaN or infinite.

    Raises:
      CheckpointError: naming the first such parameter.
    """
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise CheckpointError(
                f"{path}: {escaped(name)} has values that are not finite"
            )


def open_safe(path: Path) -> Any:
    """Opens a .safetensors file; its arrays are read one by one, see `get_array`.

    Raises:
      CheckpointError: if it is not one.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise CheckpointError(
            f"{path}: needs safetensors; pip install 'progdist[hub]'"
        ) from None
    try:
        return safe_open(path, "numpy")
    except (OSError, SafetensorError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"{path}: not a safetensors file ({reason})") from None


def get_array(file: Any, path: Path, name: str) -> np.ndarray:
    """Reads an array of a .safetensors file.

    Args:
      file: the file, from `open_safe`.
      path: its path, for messages.
      name: name of the array.

    Raises:
      CheckpointError: if NumPy lacks its dtype.
    """
    try:
        return file.get_tensor(name)
    except (TypeError, ValueError) as error:
        reason = reason_of(error)
        raise CheckpointError(f"{path}: not parameters ({reason})") from None


def read_flax(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Returns the `ema_params` of a flax msgpack file, and a student's number of steps.

    The number is 0 in a model of continuous time. Parameters are by their paths.

    Raises:
      CheckpointError: if it is another file.
    """
    try:
        state: Any = flax.serialization.msgpack_restore(path.read_bytes())
        leaves = flax.traverse_util.flatten_dict(state["ema_params"], sep="/")
        num_steps = int(state.get("num_sample_steps", 0))
    except Exception as error:  # a damaged file may raise anything
        reason = reason_of(error)
        raise CheckpointError(
            f"{path}: not a flax msgpack file with ema_params ({reason})"
        ) from None
    for name, leaf in leaves.items():
        kind = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(kind, jnp.floating):
            raise CheckpointError(f"{path}: {escaped(name)} holds {kind}, not floats")
    if num_steps < 0:
        raise CheckpointError(f"{path}: num_sample_steps={num_steps}: must be >= 0")
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}, num_steps


def _read_flax(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    leaves, num_steps = read_flax(path)
    arrays = {name: np.squeeze(leaf) for name, leaf in leaves.items()}
    return arrays, {"num_steps": num_steps} if num_steps else {}


def _read_safe(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with open_safe(path) as file:
        names = file.keys()
        leaves = {name: np.squeeze(get_array(file, path, name)) for name in names}
        return leaves, _card(file)


def _card(file: Any) -> dict[str, Any]:
    notes = file.metadata() or {}
    return {n: _value(v) if n in _VALUES else v for n, v in notes.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


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
            f"{path}: {escaped(name)} has shape {theirs.get(name, 'none')}, but the "
            f"configured network has {ours.get(name, 'none')}"
        )
