"""Parameters of a diffusers network, from its files of weights."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from progdist.checkpoint import CheckpointError, files as model_files, torch_names
from progdist.checkpoint.digests import leaves_of
from progdist.checkpoint.weights import read_torch
from progdist.errors import escaped
from progdist.workdir import files, rows

_SAFE = "diffusion_pytorch_model.safetensors"
_INDEX = f"{_SAFE}.index.json"
_PICKLE = "diffusion_pytorch_model.bin"
# Attention until diffusers 0.16.
_RENAMED = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_LAST = "conv_out."
_SHARD = re.compile(r"[\w.-]{1,255}", re.ASCII)


class Stored(NamedTuple):
    """An array in a file, which `read` reads."""

    path: Path
    name: str
    read: Callable[[], np.ndarray]


def read(folder: Path, tree: Any, out_channels: int) -> Any:
    """Reads the parameters, one array at a time.

    Args:
      folder: folder of the network.
      tree: shapes of the parameters.
      out_channels: output channels in the file; of more than the tree has, the first
        are read, as of a network that predicts variances too.

    Raises:
      CheckpointError: if the file is missing or damaged, or lacks an array, or one is
        superfluous, of another shape or type, or not finite.
      WeightsError: if a .bin file is damaged or holds anything but arrays.
    """
    stored = {current_name(name): one for name, one in _open(folder).items()}
    shapes = _torch_shapes(tree)
    _check_names(folder, stored, shapes)
    params = {}
    for name, shape in shapes.items():
        full = (out_channels, *shape[1:]) if name.startswith(_LAST) else shape
        array = _checked(stored[name], full)[: shape[0]]
        path, value = torch_names.from_torch(name, array)
        params[path] = np.ascontiguousarray(value, np.float32)
    return unflatten_dict(params, sep="/")


def current_name(name: str) -> str:
    """Returns the name that a parameter of attention has since diffusers 0.16."""
    match = re.fullmatch(r"(.*\battentions\.\d+)\.(\w+)\.(weight|bias)", name)
    if not match or match[2] not in _RENAMED:
        return name
    return f"{match[1]}.{_RENAMED[match[2]]}.{match[3]}"


def _torch_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array as PyTorch has it."""
    # These arrays take no memory.
    arrays = {p: np.broadcast_to(0.0, s.shape) for p, s in leaves_of(tree).items()}
    named = (torch_names.to_torch(path, array) for path, array in arrays.items())
    return {name: array.shape for name, array in named}


def _check_names(
    folder: Path, stored: Mapping[str, Stored], shapes: Mapping[str, Any]
) -> None:
    for name in shapes:
        if name not in stored:
            raise CheckpointError(f"{folder}: its weights lack {name}")
    for name, one in stored.items():
        if name not in shapes:
            raise CheckpointError(
                f"{one.path}: {escaped(one.name)} is not a parameter of this network"
            )


def _checked(stored: Stored, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array; refuses other shapes and types, and what is not finite."""
    array, where = stored.read(), f"{stored.path}: {stored.name}"
    if array.shape != shape:
        raise CheckpointError(
            f"{where} has shape {array.shape}, but the network of config.json has "
            f"{shape}"
        )
    if array.dtype.kind != "f":
        raise CheckpointError(f"{where} is of type {array.dtype}, accepted are floats")
    if not np.isfinite(array).all():
        raise CheckpointError(f"{where} has values that are not finite")
    return array


def _open(folder: Path) -> dict[str, Stored]:
    """Returns the arrays of a network by name, unread."""
    if (folder / _SAFE).is_file():
        return _safe(folder / _SAFE)
    if (folder / _INDEX).is_file():
        return _sharded(folder / _INDEX)
    if (folder / _PICKLE).is_file():
        path = folder / _PICKLE
        arrays = read_torch(path)
        return {n: Stored(path, n, lambda a=a: a) for n, a in arrays.items()}
    raise CheckpointError(f"{folder}: holds neither {_SAFE} nor {_PICKLE}")


def _safe(path: Path) -> dict[str, Stored]:
    file = model_files.open_safe(path)

    def reader(name: str) -> Callable[[], np.ndarray]:
        return lambda: model_files.get_array(file, path, name)

    return {name: Stored(path, name, reader(name)) for name in file.keys()}  # noqa: SIM118


def _sharded(path: Path) -> dict[str, Stored]:
    """Returns the arrays of all files that an index names."""
    index = rows.parse(files.read_regular(path), str(path)).get("weight_map")
    names = list(index.values()) if isinstance(index, dict) else []
    for name in names:
        is_name = isinstance(name, str) and _SHARD.fullmatch(name)
        if not is_name or not (path.parent / name).is_file():
            raise CheckpointError(f"{path}: {name!r:.60} is not a file beside it")
    stored: dict[str, Stored] = {}
    for name in sorted(set(names)):
        stored |= _safe(path.parent / name)
    return stored
