"""Trees of arrays on disk by Orbax, each with a sealed card that describes it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.experimental.v1._src.saving import execution

from progdist.checkpoint import digests
from progdist.checkpoint.digests import CheckpointError, DamageError, Leaf, Leaves
from progdist.workdir.mirror import Mirror

Params = Any  # a tree of arrays, or of their shapes and dtypes
Card = dict[str, Any]


def location(path: Path) -> str:
    """Returns an absolute path; Orbax fails late on a relative one."""
    return str(path.absolute())


def saves_here(mirror: Mirror | None) -> bool:
    """Whether this process takes part in a save.

    All do if they share the directory; else only process 0, which has all arrays, since
    they are replicated.
    """
    return mirror is None or jax.process_index() == 0


@contextlib.contextmanager
def saving(tree: Any, mirror: Mirror | None) -> Iterator[Any]:
    """Opens Orbax's context of a save; yields what this process hands to Orbax."""
    if mirror is None or jax.process_count() == 1:
        yield tree
        return
    with alone(), _no_comparison_of_paths():
        yield jax.device_get(tree)  # Orbax refuses a process's own jax.Array


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keeps Orbax from waiting for other processes."""
    here, context = jax.process_index(), ocp.Context()
    context.multiprocessing.primary_host = here
    context.multiprocessing.active_processes = {here}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{here}"
    with context:
        yield


@contextlib.contextmanager
def _no_comparison_of_paths() -> Iterator[None]:
    """Prevents Orbax 0.12 from asking all processes, active or not, for the path."""
    before = execution._check_directory_consistency
    execution._check_directory_consistency = lambda directory: None
    try:
        yield
    finally:
        execution._check_directory_consistency = before


def make_card(facts: dict[str, Any], tree: Any) -> Card:
    """Returns the facts, the digests of the tree, and the digest of both."""
    rows = {name: list(leaf) for name, leaf in digests.digests_of(tree).items()}
    card = facts | {"content": rows}
    return card | {"seal": digests.seal(card)}


def read_card(where: Path) -> Card:
    """Returns the card of a tree, without its seal.

    Raises:
      CheckpointError: if another version of the program wrote it.
      DamageError: if it is missing, or changed since it was written.
    """
    try:
        metadata: Any = ocp.metadata(location(where)).custom_metadata
        card = dict(metadata)
        sealed = card.pop("seal")
    except Exception as error:  # damage has many forms
        raise DamageError(f"{where}: is incomplete ({reason(error)})") from error
    if sealed != digests.seal(card):
        raise DamageError(f"{where}: its description is damaged")
    try:
        leaves_on(card)
    except (KeyError, AttributeError, TypeError, ValueError):
        raise CheckpointError(
            f"{where}: its card is that of another version of progdist"
        ) from None
    return card


def leaves_on(card: Card) -> Leaves:
    """Returns shapes, dtypes and digests of the arrays that a card describes."""
    rows = card["content"].items()
    return {name: Leaf(tuple(shape), *rest) for name, (shape, *rest) in rows}


def digest_of(card: Card) -> str:
    """Returns the digest of the parameters, as `fingerprint_of` computes it."""
    return digests.combined(leaves_on(card), "params")


def read_tree(where: Path, abstract: Any, card: Card) -> Any:
    """Reads arrays in the shapes, dtypes and shardings of abstract ones.

    Raises:
      CheckpointError: if they have other shapes (names the leaf), or cannot be read
        although their files are intact.
      DamageError: if they cannot be read, or changed since they were written.
    """
    saved = leaves_on(card)
    digests.check_shapes(where, saved, abstract)
    try:
        with alone() if jax.process_count() > 1 else contextlib.nullcontext():
            tree = ocp.load(location(where), abstract)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        whole = digests.has_manifest(where)  # compared already
        kind = CheckpointError if whole else DamageError
        raise kind(f"{where}: cannot be read ({reason(error)})") from error
    digests.check_digests(where, tree, saved)
    return tree


def read_arrays(where: Path) -> Any:
    """Reads the whole tree into host memory, whatever its network.

    Raises:
      DamageError: as `read_tree`.
    """
    card = read_card(where)
    # A stand-in for an array of that shape, without its memory.
    abstract = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
        ocp.metadata(location(where)).metadata,
    )
    return read_tree(where, abstract, card)


def abstract_of(tree: Any) -> Any:
    """Returns shapes, dtypes and shardings of arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def reason(error: Exception) -> str:
    """Returns the message of an error, in one line of limited length."""
    return " ".join(str(error).split())[:1000] or type(error).__name__
