"""What is kept on disk, by Orbax.

workdir/checkpoints/<global step>: the newest snapshots of the run, to resume from. The
  data need no more than the step: a batch is a function of seed and step.
workdir/models/phase_03_steps_4: the model of each finished phase, for ever, with a
  card that says what it is.
"""

from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from progdist.state import Params, Snapshot


class CheckpointError(ValueError):
    """A checkpoint or model is missing, or is not of this configuration."""


class Progress(NamedTuple):
    """How far a saved run had come: `step` updates into phase `phase`."""

    phase: int
    step: int
    global_step: int


class Checkpoints:
    """The snapshots of one run, under one global step over all phases."""

    def __init__(self, directory: Path, keep: int) -> None:
        """Opens, or creates, the directory; the latest `keep` stay."""
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._orbax = ocp.training.Checkpointer(
            _location(directory),
            preservation_policy=policy,  # pyright: ignore
            cleanup_tmp_directories=True,
        )
        self._saving: Any = None

    def save(self, global_step: int, snapshot: Snapshot) -> None:
        """Starts to write a snapshot; ends the write before it first.

        A step that is there already is left as it is.
        """
        self.wait()
        latest = self._orbax.latest
        if latest is not None and latest.step >= global_step:
            return
        step = int(snapshot.state.step)
        progress: dict[str, Any] = {"phase": snapshot.phase, "step": step}
        tree = _as_dict(snapshot)
        self._saving = self._orbax.save_async(
            global_step, tree, custom_metadata=progress
        )

    def wait(self) -> None:
        """Returns when the last write is complete; raises what went wrong with it."""
        if self._saving is not None:
            self._saving.result()
            self._saving = None

    def latest(self) -> Progress | None:
        """Returns where the newest snapshot stands; None if there is none."""
        newest = self._orbax.latest
        if newest is None:
            return None
        found: Any = self._orbax.metadata(newest.step).custom_metadata
        return Progress(found["phase"], found["step"], newest.step)

    def restore(self, progress: Progress, template: Snapshot) -> Snapshot:
        """Reads a snapshot, onto the devices that the template's arrays are on."""
        tree = self._orbax.load(progress.global_step, _abstract(_as_dict(template)))
        state = template.state._replace(**tree["state"])
        return Snapshot(progress.phase, state, tree["teacher_params"])

    def close(self) -> None:
        """Waits for the last write."""
        self.wait()
        self._orbax.close()


def model_dir(workdir: Path, phase: int, num_steps: int) -> Path:
    """Returns where the model of a phase is kept."""
    return workdir / "models" / f"phase_{phase:02d}_steps_{num_steps}"


def save_model(path: Path, params: Params, card: dict[str, Any]) -> None:
    """Keeps a model's parameters and its card; one that is there already stays."""
    if not path.exists():
        ocp.save(_location(path), {"params": params}, custom_metadata=card)


def read_card(path: Path) -> dict[str, Any]:
    """Returns a model's card; that of a released file is empty.

    Raises:
      CheckpointError: if there is no model at `path`.
    """
    return {} if path.is_file() else dict(_metadata(path).custom_metadata or {})


def check_model(path: Path, shapes: Params) -> None:
    """Refuses what `load_model` would, without touching a device.

    Args:
      path: as for `load_model`.
      shapes: a tree of arrays or of their shapes.

    Raises:
      CheckpointError: if there is nothing to read, or it belongs to another network.
    """
    if path.is_file():
        found, shapes = _read_released(path), jax.tree.map(_without_ones, shapes)
    else:
        found = _metadata(path).metadata["params"]
    _check_shapes(path, found, shapes)


def load_model(path: Path, template: Params) -> Params:
    """Reads the parameters of a model: a directory of `models/`, or a released file.

    Args:
      path: a directory that `save_model` wrote, or a flax msgpack file with a train
        state, whose `ema_params` are taken.
      template: parameters of the network, whose shapes have to agree.

    Raises:
      CheckpointError: if there is nothing to read, or it belongs to another network.
    """
    check_model(path, template)
    if path.is_file():
        return _like(_read_released(path), template)
    return ocp.load(_location(path), _abstract({"params": template}))["params"]


def _metadata(path: Path) -> Any:
    """Returns what Orbax knows of a model without reading its arrays."""
    try:
        found: Any = ocp.metadata(_location(path))
        found.metadata["params"]
    except (OSError, ValueError, TypeError, KeyError, ocp.errors.InvalidLayoutError):
        raise CheckpointError(
            f"{path}: holds no model; give a directory of models/, or a released file"
        ) from None
    return found


def _read_released(path: Path) -> Params:
    """Reads `ema_params`, without axes of 1, which its normalisations have."""
    try:
        tree = flax.serialization.msgpack_restore(path.read_bytes())["ema_params"]
        leaves = {name: np.squeeze(leaf) for name, leaf in _leaves(tree).items()}
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: not a flax msgpack file with ema_params ({error})"
        ) from None
    return _unflatten(leaves)


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


def _location(path: Path) -> str:
    """Orbax takes absolute paths only, and fails late on others."""
    return str(path.absolute())


def _as_dict(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "state": snapshot.state._asdict(),
        "teacher_params": snapshot.teacher_params,
    }


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
