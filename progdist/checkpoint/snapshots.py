"""Snapshots of a run; it resumes from the newest intact one."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from progdist import parallel
from progdist.checkpoint import digests, trees
from progdist.checkpoint.digests import CheckpointError, DamageError
from progdist.errors import Error, InputError
from progdist.workdir.mirror import Mirror

Facts = dict[str, Any]
Tree = Any


class SaveError(Error):
    """A file could not be written."""

    exit_code = 4


class Checkpoints:
    """Snapshots of one run, numbered by global step."""

    def __init__(
        self,
        directory: Path,
        keep: int,
        warn: Callable[[str], None] = print,
        mirror: Mirror | None = None,
    ) -> None:
        """Takes the directory; it need not exist yet.

        Args:
          directory: the directory.
          keep: number of latest snapshots to keep.
          warn: shows a message to the user.
          mirror: local copy of a workdir in a bucket, which uploads the snapshots; None
            if the processes share the directory.
        """
        self._directory, self._keep, self._warn = directory, keep, warn
        self._mirror = mirror
        # Of the last save; other processes may see the directory a moment later.
        self._latest: int | None = None
        self._saving: tuple[int, Future[None]] | None = None
        # While a save is in progress, nothing else may call Orbax.
        self._background = ThreadPoolExecutor(1)

    def save(self, global_step: int, tree: Tree, facts: Facts) -> None:
        """Starts to write a snapshot once the previous write is complete.

        An existing snapshot of the same step is left as it is.

        Args:
          global_step: updates done in all phases; the name of the snapshot.
          tree: dictionaries of arrays.
          facts: plain data for the card, including `global_step`.

        Raises:
          SaveError: if the previous write failed, or this one cannot begin.
        """
        self.wait()
        if self._latest is None:
            self._latest = max(snapshot_steps(self._directory), default=-1)
        if self._latest == global_step or not trees.saves_here(self._mirror):
            return
        if self._latest > global_step:
            newer = self._directory / str(self._latest)
            reason = RuntimeError(f"{newer} exists and is newer")
            raise self._failure(global_step, reason)
        card = trees.make_card(facts, tree)
        where = trees.location(self._directory / str(global_step))
        try:
            with trees.saving(tree, self._mirror) as part:
                writing = ocp.save_async(where, part, custom_metadata=card)
        except Exception as error:
            raise self._failure(global_step, error) from error
        completed = self._background.submit(self._complete, global_step, writing)
        self._saving, self._latest = (global_step, completed), global_step

    def wait(self) -> None:
        """Waits until the last write is complete.

        Raises:
          SaveError: if it failed.
          InputError: if a bucket refused it, or another run owns the workdir.
        """
        if self._saving is None:
            return
        (global_step, completed), self._saving = self._saving, None
        try:
            completed.result()
        except InputError:  # another run has taken the workdir over, say
            raise
        except Exception as error:
            raise self._failure(global_step, error) from error

    def restore_newest(
        self, template_of: Callable[[Facts], Tree]
    ) -> tuple[Tree, Facts] | None:
        """Reads the newest intact snapshot; None if the directory holds no snapshot.

        Damaged ones are reported, and moved aside once an older one proves good.

        Args:
          template_of: maps the facts of a snapshot to its arrays, or to their shapes
            and shardings.

        Raises:
          CheckpointError: if all are damaged, or the newest intact one belongs to
            another network.
        """
        restored, damaged = None, {}
        for global_step in snapshot_steps(self._directory):
            try:
                restored = self._restore(global_step, template_of)
                break
            except DamageError as error:
                damaged[global_step] = str(error)
        if restored is None and damaged:
            raise CheckpointError(
                f"{self._directory}: no checkpoint is intact ("
                + "; ".join(damaged.values())
                + "); put a good one back, or start in another workdir"
            )
        latest = restored[1]["global_step"] if restored else -1
        self._agree(latest)
        self._latest = latest
        for global_step, reason in damaged.items():
            self._put_aside(global_step, reason)
        parallel.barrier("the damaged checkpoints are moved aside")
        return restored

    def close(self) -> None:
        """Waits for the last write, and raises the errors of `wait`."""
        try:
            self.wait()
        finally:
            self._background.shutdown()

    def _complete(self, global_step: int, writing: Any) -> None:
        """Completes a write, adds the digests of its files, and removes old ones."""
        writing.result()
        if jax.process_index() == 0:
            digests.write_manifest(self._directory / str(global_step))
            for old in snapshot_steps(self._directory)[self._keep :]:
                shutil.rmtree(self._directory / str(old))
            if self._mirror:
                self._mirror.push()

    def _restore(
        self, global_step: int, template_of: Callable[[Facts], Tree]
    ) -> tuple[Tree, Facts]:
        where = self._directory / str(global_step)
        digests.check_manifest(where)
        card = trees.read_card(where)
        if card.get("global_step") != global_step:
            raise DamageError(f"{where}: is not a checkpoint of this step")
        abstract = trees.abstract_of(template_of(card))
        return trees.read_tree(where, abstract, card), card

    def _agree(self, global_step: int) -> None:
        everywhere = parallel.of_all_processes(global_step)
        if len(set(everywhere)) > 1:
            rule = "one of their copies is damaged"
            if self._mirror is None:
                rule = "workdir must be storage that they share"
            raise CheckpointError(
                f"{self._directory}: the processes read the checkpoints {everywhere}; "
                f"{rule}"
            )

    def _put_aside(self, global_step: int, reason: str) -> None:
        if jax.process_index() == 0:
            path = self._directory / str(global_step)
            names = (path.with_name(f"{path.name}.damaged{n or ''}") for n in count())
            aside = next(name for name in names if not name.exists())
            path.rename(aside)
            self._warn(f"warning: {reason}; moved aside as {aside.name}")

    def _failure(self, global_step: int, error: Exception) -> SaveError:
        where = self._directory / str(global_step)
        return SaveError(f"{where}: could not be written ({trees.reason(error)})")


def snapshot_steps(directory: Path) -> list[int]:
    """Returns the global steps of all snapshots by name, newest first."""
    names = [path.name for path in directory.glob("*/")]
    return sorted((int(name) for name in names if _is_step(name)), reverse=True)


def fingerprint(where: Path) -> dict[str, str]:
    """Returns the SHA-256 of each group of a snapshot's arrays, and of its progress.

    Raises:
      DamageError: if the arrays changed since they were written.
    """
    digests.check_manifest(where)
    card = trees.read_card(where)
    trees.read_arrays(where)  # compares them with the card
    leaves = trees.leaves_on(card)
    groups = {
        "params": "state/params",
        "ema": "state/ema_params",
        "optimizer": "state/opt_state",
        "teacher": "teacher_params",
    }
    hashes = {
        name: digests.combined(leaves, under) or "none"
        for name, under in groups.items()
    }
    progress = {key: value for key, value in card.items() if key != "content"}
    return hashes | {"progress": digests.seal(progress)}


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name
