"""Models of finished phases, and files of models that can serve as a teacher."""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from progdist import parallel
from progdist.checkpoint import digests, files, trees
from progdist.checkpoint.digests import CheckpointError
from progdist.checkpoint.snapshots import SaveError
from progdist.checkpoint.trees import Params
from progdist.errors import InputError
from progdist.workdir import layout
from progdist.workdir.mirror import Mirror


def model_dir(workdir: Path, phase: int, num_steps: int) -> Path:
    """Returns the directory of a phase's model."""
    return workdir / layout.MODELS / f"phase_{phase:02d}_steps_{num_steps}"


def finished_models(workdir: Path) -> dict[int, int]:
    """Returns the number of steps of each finished phase of a run."""
    names = [path.name for path in (workdir / layout.MODELS).glob("phase_*_steps_*")]
    matches = [re.fullmatch(r"phase_(\d+)_steps_(\d+)", name) for name in names]
    return dict(sorted((int(m[1]), int(m[2])) for m in matches if m))


def find_model(workdir: Path, num_steps: int | None) -> Path:
    """Returns the directory of the finished round with this number of steps.

    Args:
      workdir: directory of the run.
      num_steps: steps of the round; None for the base model.

    Raises:
      CheckpointError: if it does not exist; lists those that do.
    """
    steps = finished_models(workdir)
    for phase, n in steps.items():
        if (phase == 0) if num_steps is None else (n == num_steps):
            return model_dir(workdir, phase, n)
    model = "the teacher" if num_steps is None else f"num_steps={num_steps}"
    there = ", ".join(map(str, sorted(steps.values()))) or "none yet"
    raise CheckpointError(
        f"{model}: no such finished model in {workdir / 'models'}; available steps: "
        f"{there}"
    )


def save_model(
    path: Path, params: Params, facts: dict[str, Any], mirror: Mirror | None = None
) -> None:
    """Writes a model's parameters, and a card with the facts.

    An existing equal model is kept; any other is replaced.

    Args:
      path: the directory.
      params: the parameters.
      facts: plain data for the card.
      mirror: local copy of a workdir in a bucket: process 0 uploads the model, and the
        others download it; None if they share the directory.

    Raises:
      SaveError: if it could not be written.
      InputError: if a bucket refused it, or another run owns the workdir.
    """
    tree = {"params": params}
    card = trees.make_card(facts, tree)
    try:
        if parallel.broadcast_from_zero(_is_saved(path, card)):
            return
        if trees.saves_here(mirror):
            with trees.saving(tree, mirror) as part:
                ocp.save(
                    trees.location(path), part, custom_metadata=card, overwrite=True
                )
        if jax.process_index() == 0:
            digests.write_manifest(path)
            if mirror:
                mirror.push()
    except InputError:  # another run has taken the workdir over, say
        raise
    except Exception as error:
        raise SaveError(
            f"{path}: could not be written ({trees.reason(error)})"
        ) from error
    parallel.barrier(f"{path.name} is kept")
    if mirror:
        under = f"{path.relative_to(mirror.path).as_posix()}/"
        parallel.together(lambda: mirror.pull_unless_owned(under))


def is_model(path: Path) -> bool:
    """Whether `save_model` wrote the directory."""
    return (path / "_CHECKPOINT_METADATA").is_file()


def read_card(path: Path) -> dict[str, Any]:
    """Returns the card of a model: of a directory, or of a .safetensors file.

    Raises:
      CheckpointError: if there is no model at `path`, or it is damaged.
    """
    if path.is_file():
        return files.read_card(path)
    if not is_model(path):
        raise _no_model(path)
    digests.check_manifest(path)
    card = trees.read_card(path)
    if type(card.get("num_steps")) is not int:
        raise _no_model(path)
    return card


def check_model(path: Path, shapes: Params) -> dict[str, Any]:
    """Returns a model's card; refuses what `load_model` does, without using a device.

    Only `load_model` finds parameters of a directory that are not finite.

    Args:
      path: as for `load_model`.
      shapes: a tree of arrays or of their shapes.

    Raises:
      CheckpointError: if there is no model, or it belongs to another network.
    """
    if path.is_file():
        return files.read(path, shapes)[1]
    card = read_card(path)
    digests.check_shapes(path, trees.leaves_on(card), {"params": shapes})
    return card


def load_model(path: Path, template: Params) -> Params:
    """Reads the parameters of a model: a directory of `models/`, or a released file.

    Args:
      path: a directory that `save_model` wrote, an exported .safetensors file, or a
        flax msgpack file with a train state, whose `ema_params` are read.
      template: parameters of the network, or their shapes, dtypes and shardings. The
        shapes must match.

    Raises:
      CheckpointError: if there is no model, it is damaged, belongs to another network,
        or has parameters that are not finite.
    """
    if path.is_file():
        return like(files.read(path, template)[0], template)
    abstract = trees.abstract_of({"params": template})
    params = trees.read_tree(path, abstract, read_card(path))["params"]
    leaves = digests.leaves_of(params).items()
    # Each process can see its own part alone.
    files.check_finite(path, {name: leaf.addressable_data(0) for name, leaf in leaves})
    return params


def check_params(where: str, params: Params, shapes: Params) -> None:
    """Refuses parameters that do not fit the network, or are not finite.

    Raises:
      CheckpointError: naming the first such parameter.
    """
    digests.check_shapes(where, digests.leaves_of(params), shapes)
    files.check_finite(where, digests.leaves_of(params))


def clear_leftovers(directory: Path) -> None:
    """Removes the remains of interrupted writes; only the run's owner may call it."""
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def _is_saved(path: Path, card: dict[str, Any]) -> bool:
    """Whether an equal model exists, intact and with its manifest.

    It stays equal, and keeps its card, when later code finishes its phase again; cards
    of earlier versions have fewer fields.
    """
    try:
        saved = read_card(path)
    except CheckpointError:
        return False
    fields = (saved.keys() & card.keys()) - {"commit", "versions"}
    one, other = ({f: facts[f] for f in fields} for facts in (saved, card))
    return digests.seal(one) == digests.seal(other) and digests.has_manifest(path)


def _no_model(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: holds no model; pass a directory of models/, a .safetensors or a "
        "released file"
    )


def like(params: Params, template: Params) -> Params:
    """Returns the parameters in the template's shapes and dtypes, on its devices."""
    return jax.tree.map(
        lambda ours, theirs: jax.device_put(
            theirs.reshape(ours.shape).astype(ours.dtype), ours.sharding
        ),
        template,
        params,
    )
