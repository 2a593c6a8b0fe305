"""Models in single files: released flax train states, and exported safetensors."""

from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np

from progdist.checkpoint.digests import CheckpointError
from progdist.checkpoint.trees import Params

_SAFE = ".safetensors"
_NUMBERS = "num_steps", "phase", "num_classes"  # of a card, whose notes are strings


def read_params(path: Path, shapes: Params) -> Params:
    """Reads the parameters in a file, without axes of 1.

    Those are in the normalisations of released flax files, of which `ema_params` are
    taken.

    Args:
      path: a .safetensors file, or a flax msgpack file.
      shapes: a tree of arrays or of their shapes, with which the file has to agree,
        axes of 1 aside.

    Raises:
      CheckpointError: if it cannot be read, or belongs to another network.
    """
    params = _read_safe(path) if path.suffix == _SAFE else _read_flax(path)
    _check_shapes(path, params, jax.tree.map(_without_ones, shapes))
    return params


def read_card(path: Path) -> dict[str, Any]:
    """Returns the card of a file; that of a flax file is empty.

    Raises:
      CheckpointError: if it is not a safetensors file in spite of its name.
    """
    if path.suffix != _SAFE:
        return {}
    with _safe_open(path) as file:
        notes = file.metadata() or {}
    return {n: int(v) if n in _NUMBERS and _is_int(v) else v for n, v in notes.items()}


def _read_flax(path: Path) -> Params:
    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())["ema_params"]
        leaves = {name: np.squeeze(leaf) for name, leaf in _leaves(tree).items()}
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: not a flax msgpack file with ema_params ({error})"
        ) from None
    return flax.traverse_util.unflatten_dict(leaves)


def _read_safe(path: Path) -> Params:
    with _safe_open(path) as file:
        try:
            leaves = {
                tuple(name.split("/")): np.squeeze(file.get_tensor(name))
                for name in file.keys()  # noqa: SIM118, it is no mapping
            }
            return flax.traverse_util.unflatten_dict(leaves)
        except (TypeError, ValueError, IndexError) as error:
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


def _without_ones(leaf: Any) -> jax.ShapeDtypeStruct:
    shape = tuple(n for n in leaf.shape if n != 1)
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _check_shapes(path: Path, found: Params, template: Params) -> None:
    """Refuses parameters of another network, naming the first leaf that differs."""
    theirs = {n: x.shape for n, x in _leaves(found).items()}
    ours = {n: x.shape for n, x in _leaves(template).items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise CheckpointError(
                f"{path}: {'/'.join(name)} has shape {theirs.get(name, 'none')}, the "
                f"configured network has {ours.get(name, 'none')}"
            )


def _leaves(tree: Params) -> dict[tuple[str, ...], Any]:
    return flax.traverse_util.flatten_dict(tree)
