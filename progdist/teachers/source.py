"""Teachers by their files: which format a file has, and what it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError
from progdist.diffusion.settings import Parameterization
from progdist.model import Params, param_shapes, param_template
from progdist.nets.settings import Betas
from progdist.sampling import cards
from progdist.sampling.cards import Card
from progdist.workdir import files

Precondition = Literal["none", "edm", "consistency"]


class Options(NamedTuple):
    """Facts of a model that its file may not hold; None where they are not given.

    Attributes:
      output: meaning of the network's output, for released flax files.
      betas: rule of the betas, for files of guided-diffusion.
      precondition: preconditioning, for files of consistency_models.
      num_heads: number of attention heads, if head_dim is None.
      head_dim: channels per attention head.
    """

    output: Parameterization | None = None
    betas: Betas | None = None
    precondition: Precondition | None = None
    num_heads: int | None = None
    head_dim: int | None = None


class Teacher(NamedTuple):
    """A trained model in some format.

    Attributes:
      card: card of the model; see `progdist.sampling.cards`. `phase` is 0 and
        `num_steps` the usual number of steps, or of a student 1 and its own number.
      read: returns the parameters, as NumPy arrays in the tree of the network.
    """

    card: Card
    read: Callable[[], Params]


def read_teacher(source: str | Path, options: Options | None = None) -> Teacher:
    """Opens a model in any of the formats.

    Args:
      source: a model directory or exported file of progdist, a released flax msgpack
        file, …
      options: facts that the file does not hold.

    Raises:
      InputError: if it is missing, damaged, of no known format, or lacks a fact.
    """
    path = files.expand(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    return _own(path)


def convert(teacher: Teacher, out: Path, where: str) -> None:
    """Writes a teacher as a model directory, which appears complete or not at all.

    Args:
      teacher: the model.
      out: the directory; must not exist.
      where: the source, for messages.

    Raises:
      CheckpointError: if the parameters do not fit the card, or are not finite.
      SaveError: if it could not be written.
    """
    model = cards.model_of(teacher.card, where)
    params = teacher.read()
    checkpoint.check_params(where, params, param_shapes(model))
    template = param_template(model, parallel.make_mesh())
    checkpoint.save_model(out, checkpoint.like(params, template), teacher.card)


def _own(path: Path) -> Teacher:
    """Returns a model that progdist wrote."""
    card: Card = {
        name: value
        for name, value in cards.read_card(path).items()
        if name not in ("content", "distances")
    }

    def read() -> Any:
        shapes = param_shapes(cards.model_of(card, str(path)))
        return checkpoint.read_params(path, shapes)

    return Teacher(card, read)
