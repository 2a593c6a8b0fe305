"""Teachers by their files: which format a file has, and what it becomes."""

import os
from pathlib import Path

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError, SaveError
from progdist.model import Params, param_template
from progdist.sampling import cards, hub
from progdist.sampling.pretrained import with_params
from progdist.teachers import diffusers, guided, released
from progdist.teachers.teacher import Options, Teacher
from progdist.workdir import files, layout
from progdist.workdir.bucket import is_url
from progdist.workdir.copies import local

# A pickle is a program; the reader of .pt files refuses all but tensors.
_PICKLES = ".pkl", ".pickle", ".ckpt", ".bin"
_NOT_RELEASED = ".safetensors", ".pt", ".pth", *_PICKLES


def read_teacher(source: str | Path, options: Options | None = None) -> Teacher:
    """Opens a model in any of the formats.

    Args:
      source: a model directory or export of progdist, a folder of diffusers, either of
        them on the Hugging Face Hub as hf://OWNER/NAME, a .pt or .pth file of
        guided-diffusion or its relatives, or a released flax msgpack file.
      options: facts that the file lacks.

    Raises:
      InputError: if it is missing, damaged, of no known format, or lacks a fact.
      UsageError: if an option does not apply to it.
    """
    is_remote = str(source).startswith(hub.PREFIX)
    path = hub.download(str(source), hub.OF_DIFFUSERS) if is_remote else _local(source)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    teacher = _read(path, options or Options())
    if teacher.is_own:
        return teacher
    is_remote |= is_url(source)
    origin = str(source) if is_remote else Path(os.path.abspath(path)).name
    return teacher._replace(card=teacher.card | {"origin": origin})


def _local(source: str | Path) -> Path:
    return local(source, layout.is_of_model)


def _read(path: Path, options: Options) -> Teacher:
    """Returns the model at a path that exists."""
    if hub.is_of_diffusers(path):
        return diffusers.read(path, options)
    if path.is_dir():
        return _own(_own_folder(path), options)
    if not path.is_file():  # reading a pipe could block for ever
        raise CheckpointError(f"{path}: is not a regular file")
    return _of_file(path, options)


def _of_file(path: Path, options: Options) -> Teacher:
    """Returns the model in a file, by its suffix; released flax files have none."""
    if path.name.startswith("diffusion_pytorch_model"):
        raise CheckpointError(
            f"{path}: is of diffusers; pass the folder that holds config.json"
        )
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path}: is a pickle, which can hold code; accepted are .pt and .pth "
            "files of tensors, .safetensors files of progdist and released flax files"
        )
    try:
        match path.suffix:
            case ".safetensors":
                return _own(path, options)
            case ".pt" | ".pth":
                return guided.read(path, options)
        return released.read(path, options)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _own_folder(path: Path) -> Path:
    """Returns the model directory, or the file of parameters, in a folder."""
    hub.check_not_of_diffusers(path, str(path))  # that of an export
    try:
        return with_params(path)
    except CheckpointError:
        raise CheckpointError(
            f"{path}: is neither a folder of diffusers nor a model of progdist"
        ) from None


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
      out: the directory; must not exist. Its parents are created, and kept.
      where: the source, for messages.

    Raises:
      CheckpointError: if the parameters do not fit the card, or are not finite.
      SaveError: if it could not be written.
    """
    model = cards.model_of(teacher.card, where)
    params = load(teacher, param_template(model, parallel.make_mesh()), where)
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_directory(out) as part:
        try:
            checkpoint.save_model(part, params, teacher.card)
        except SaveError as error:  # names the temporary directory
            raise SaveError(str(error).replace(str(part), str(out))) from None


def is_released(path: Path) -> bool:
    """Whether a path is a file whose suffix is that of no other format."""
    return path.is_file() and path.suffix not in _NOT_RELEASED


def _own(path: Path, options: Options) -> Teacher:
    """Returns a model that progdist wrote; its card holds all facts."""
    options.check_applicable((), f"{path} is a model of progdist, with a card")
    card = cards.read_card(path)
    facts = {k: v for k, v in card.items() if k not in ("content", "distances")}
    return Teacher(facts, path=path, is_own=True)
