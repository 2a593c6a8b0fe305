"""Trees of arrays on disk by Orbax, each with a sealed card of what it is."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from progdist.checkpoint import digests
from progdist.checkpoint.digests import CheckpointError, Content, DamageError

Params = Any  # a tree of arrays, or of what stands for them


def location(path: Path) -> str:
    """Orbax takes absolute paths only, and fails late on others."""
    return str(path.absolute())


def make_card(facts: dict[str, Any], tree: Any) -> dict[str, Any]:
    """Returns the facts, the content of the tree, and the digest of both."""
    rows = {name: list(leaf) for name, leaf in digests.content_of(tree).items()}
    card = facts | {"content": rows}
    return card | {"seal": digests.seal(card)}


def read_card(where: Path) -> dict[str, Any]:
    """Returns the card of a tree.

    Raises:
      DamageError: if it is not there, or not what was written.
    """
    try:
        noted: Any = ocp.metadata(location(where)).custom_metadata
        card = dict(noted)
        sealed = card.pop("seal")
    except Exception as error:  # damage has many forms
        raise DamageError(f"{where}: is incomplete ({reason(error)})") from error
    if sealed != digests.seal(card):
        raise DamageError(f"{where}: its description is damaged")
    return card


def content_on(card: dict[str, Any]) -> Content:
    """Returns the content that a card tells."""
    return digests.content_from_json(card["content"])


def read_tree(where: Path, abstract: Any, wanted: Content) -> Any:
    """Reads arrays, as and where their abstract forms say.

    Raises:
      CheckpointError: if they have another form, naming the leaf, or cannot be read
        though their files are whole.
      DamageError: if they cannot be read, or are not what was written.
    """
    digests.check_form(where, wanted, digests.form_of(abstract))
    try:
        tree = ocp.load(location(where), abstract)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        whole = digests.has_manifest(where)  # which was compared before
        kind = CheckpointError if whole else DamageError
        raise kind(f"{where}: cannot be read ({reason(error)})") from error
    digests.check_content(where, tree, wanted)
    return tree


def read_arrays(where: Path) -> Any:
    """Reads the whole tree to the host, whatever it is.

    Raises:
      DamageError: as `read_tree`.
    """
    wanted = content_on(read_card(where))
    forms = ocp.metadata(location(where)).metadata
    # Stands for an array of that shape without taking its memory.
    abstract = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), forms
    )
    return read_tree(where, abstract, wanted)


def abstract_of(tree: Any) -> Any:
    """Returns shapes, dtypes and places of arrays."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )


def reason(error: Exception) -> str:
    """What an error says, in one line of bearable length."""
    return " ".join(str(error).split())[:1000] or type(error).__name__
