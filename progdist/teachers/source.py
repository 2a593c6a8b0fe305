"""Teachers by their files: which format a file has, and what it becomes."""

from pathlib import Path

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError
from progdist.model import Params, param_template
from progdist.sampling import cards, hub
from progdist.sampling.pretrained import with_params
from progdist.teachers import diffusers, guided, released
from progdist.teachers.teacher import Options as Options, Teacher as Teacher
from progdist.workdir import files


def read_teacher(source: str | Path, options: Options | None = None) -> Teacher:
    """Opens a model in any of the formats.

    Args:
      source: a model directory or export of progdist, a folder of diffusers, either of
        them on the Hugging Face Hub as hf://OWNER/NAME, a .pt or .pth file of
        guided-diffusion or its relatives, or a released flax msgpack file.
      options: facts that the file does not hold.

    Raises:
      InputError: if it is missing, damaged, of no known format, or lacks a fact.
    """
    if str(source).startswith(hub.PREFIX):
        path = hub.download(str(source), hub.OF_DIFFUSERS)
    else:
        path = files.expand(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    if diffusers.is_pipeline(path):
        return diffusers.read(path, options or Options())
    if path.is_dir():
        return _own(with_params(path))
    if not path.is_file():  # reading a pipe could block for ever
        raise CheckpointError(f"{path}: is not a regular file")
    return _of_file(path, options or Options())


def _of_file(path: Path, options: Options) -> Teacher:
    """Returns the model in a file, by its suffix; released flax files have none."""
    try:
        match path.suffix:
            case ".safetensors":
                return _own(path)
            case ".pt" | ".pth":
                return guided.read(path, options)
        return released.read(path, options)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def load(teacher: Teacher, template: Params, where: str) -> Params:
    """Returns the parameters in the shapes, and on the devices, of a template.

    Raises:
      CheckpointError: if they have other names or shapes, or are not finite.
    """
    if teacher.path:
        return checkpoint.load_model(teacher.path, template)
    params = teacher.read()
    checkpoint.check_params(where, params, template)
    return checkpoint.like(params, template)


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
    template = param_template(model, parallel.make_mesh())
    checkpoint.save_model(out, load(teacher, template, where), teacher.card)


def is_released(path: Path) -> bool:
    """Whether a path is a file whose suffix is that of no other format."""
    return path.is_file() and path.suffix not in (".safetensors", ".pt", ".pth")


def _own(path: Path) -> Teacher:
    """Returns a model that progdist wrote."""
    card = cards.read_card(path)
    facts = {k: v for k, v in card.items() if k not in ("content", "distances")}
    return Teacher(facts, path=path)
