"""The model of each finished phase, and models in flax or safetensors files."""

import shutil
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from progdist import parallel
from progdist.checkpoint import content, stored
from progdist.checkpoint.content import CheckpointError
from progdist.checkpoint.snapshots import SaveError
from progdist.state import Params

_SAFE = ".safetensors"


def model_dir(workdir: Path, phase: int, num_steps: int) -> Path:
    """Returns where the model of a phase is kept."""
    return workdir / "models" / f"phase_{phase:02d}_steps_{num_steps}"


def save_model(path: Path, params: Params, facts: dict[str, Any]) -> None:
    """Keeps a model's parameters and a card with the facts.

    One that is there already with the same content stays, any other is replaced.

    Raises:
      SaveError: if it could not be written.
    """
    tree = {"params": params}
    card = stored.make_card(facts, tree)
    try:
        if parallel.first_says(_is_kept(path, card)):
            return
        ocp.save(stored.location(path), tree, custom_metadata=card, overwrite=True)
        if jax.process_index() == 0:
            content.write_manifest(path)
    except Exception as error:
        raise SaveError(
            f"{path}: could not be written ({stored.reason(error)})"
        ) from error
    parallel.barrier(f"{path.name} is kept")


def read_card(path: Path) -> dict[str, Any]:
    """Returns a model's card; that of a released flax file is empty.

    Raises:
      CheckpointError: if there is no model at `path`.
    """
    if path.suffix == _SAFE:
        return _safe_card(path)
    if path.is_file():
        return {}
    if not (path / "_CHECKPOINT_METADATA").is_file():
        raise _no_model(path)
    content.check_manifest(path)
    card = stored.read_card(path)
    if "num_steps" not in card:
        raise _no_model(path)
    return card


def check_model(path: Path, shapes: Params) -> None:
    """Refuses what `load_model` would, without touching a device.

    Args:
      path: as for `load_model`.
      shapes: a tree of arrays or of their shapes.

    Raises:
      CheckpointError: if there is nothing to read, or it belongs to another network.
    """
    if path.is_file():
        _check_shapes(path, _read_released(path), jax.tree.map(_without_ones, shapes))
    else:
        wanted = content.form_of({"params": shapes})
        content.check_form(path, stored.content_on(read_card(path)), wanted)


def load_model(path: Path, template: Params) -> Params:
    """Reads the parameters of a model: a directory of `models/`, or a released file.

    Args:
      path: a directory that `save_model` wrote, an exported .safetensors file, or a
        flax msgpack file with a train state, whose `ema_params` are taken.
      template: parameters of the network, whose shapes have to agree, or their
        shapes, dtypes and places.

    Raises:
      CheckpointError: if there is nothing to read, it is damaged, or it belongs to
        another network.
    """
    check_model(path, template)
    if path.is_file():
        return _like(_read_released(path), template)
    abstract = stored.abstract_of({"params": template})
    wanted = stored.content_on(stored.read_card(path))
    return stored.read_tree(path, abstract, wanted)["params"]


def clear_leftovers(directory: Path) -> None:
    """Removes what writes that were cut short have left; for the owner alone."""
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def _is_kept(path: Path, card: dict[str, Any]) -> bool:
    """Whether the same model is there, whole and with its manifest."""
    try:
        same = content.seal(read_card(path)) == card["seal"]
    except CheckpointError:
        return False
    return same and content.has_manifest(path)


def _no_model(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: holds no model; give a directory of models/, a .safetensors or a "
        "released file"
    )


def _read_released(path: Path) -> Params:
    """Reads the parameters in a file, without axes of 1.

    Those are in the normalisations of released flax files.
    """
    if path.suffix == _SAFE:
        return _read_safe(path)
    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())["ema_params"]
        leaves = {name: np.squeeze(leaf) for name, leaf in _leaves(tree).items()}
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: not a flax msgpack file with ema_params ({error})"
        ) from None
    return _unflatten(leaves)


def _read_safe(path: Path) -> Params:
    with _safe_open(path) as file:
        try:
            leaves = {
                tuple(name.split("/")): np.squeeze(file.get_tensor(name))
                for name in file.keys()  # noqa: SIM118, it is no mapping
            }
            return _unflatten(leaves)
        except (TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: not parameters ({error})") from None


def _safe_card(path: Path) -> dict[str, Any]:
    with _safe_open(path) as file:
        notes = file.metadata() or {}
    return {n: int(note) if note.isdecimal() else note for n, note in notes.items()}


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


def _like(params: Params, template: Params) -> Params:
    """Returns the parameters in the template's shapes and dtypes, on its devices."""
    return jax.tree.map(
        lambda ours, theirs: jax.device_put(
            theirs.reshape(ours.shape).astype(ours.dtype), ours.sharding
        ),
        template,
        params,
    )


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


def _unflatten(leaves: dict[tuple[str, ...], Any]) -> Params:
    return flax.traverse_util.unflatten_dict(leaves)
