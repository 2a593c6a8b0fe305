"""Teachers by their files: which format a file has, and what it becomes."""

from pathlib import Path
from typing import Any

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError
from progdist.model import param_shapes, param_template
from progdist.sampling import cards
from progdist.sampling.cards import Card
from progdist.teachers import diffusers
from progdist.teachers.types import Options as Options, Teacher as Teacher
from progdist.workdir import files


def read_teacher(source: str | Path, options: Options | None = None) -> Teacher:
    """Opens a model in any of the formats.

    Args:
      source: a model directory or exported file of progdist, a folder of diffusers, a
        released flax msgpack file, …
      options: facts that the file does not hold.

    Raises:
      InputError: if it is missing, damaged, of no known format, or lacks a fact.
    """
    path = files.expand(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    if diffusers.is_pipeline(path):
        return diffusers.read(path, options or Options())
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
