"""The given teacher of a run: a model directory, a file of another library, a function.

A teacher with the configured network and output becomes the model of phase 0 as it is.
For any other one, and for every function, phase 0 is of kind "reparameterize": it
trains the configured network towards the teacher's x̂, at unchanged N.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax

from progdist import checkpoint, preflight, teachers
from progdist.checkpoint import CheckpointError
from progdist.config import Config, ConfigError, as_begun, net_from_dict
from progdist.config.check import require
from progdist.data import Source
from progdist.model import Model, Params, param_shapes
from progdist.nets.settings import UNetConfig, norm_groups
from progdist.sampling import cards
from progdist.teachers import Teacher, function
from progdist.workdir import layout
from progdist.workdir.copies import local


class Given(NamedTuple):
    """A given teacher.

    Attributes:
      model: its network, in the precision of the target.
      source: where its parameters are; None for a function.
    """

    model: Model
    source: Teacher | None


def settle(config: Config, workdir: Path) -> Config:
    """Returns the configuration with what follows from its teacher.

    That is whether phase 0 reparameterizes it, and with config.student="teacher" the
    network and the schedule. A run that has begun keeps what it began with.

    Raises:
      InputError: if the teacher is missing, damaged or of no known format.
    """
    teacher = config.teacher
    if begun := as_begun(config, workdir):
        return begun
    if not teacher or function.is_function(teacher):
        rule = "'net' for a function, or without a config.teacher"
        require(config.student == "net", "config.student", config.student, rule)
        return dataclasses.replace(config, reparameterize=bool(teacher))
    card = _source(config).card
    if "net" not in card:  # what lacks a network must fit the configured one
        return dataclasses.replace(config, reparameterize=False)
    cards.model_of(card, teacher)  # refuses a card that is none
    if config.student == "teacher":
        ours, theirs = config.net, net_from_dict(card["net"])
        net = dataclasses.replace(theirs, dtype=ours.dtype, remat=ours.remat)
        config = dataclasses.replace(config, net=net, schedule=card["schedule"])
    return dataclasses.replace(config, reparameterize=not _is_same(config, card))


def open_given(config: Config, may_import: bool = False) -> Given:
    """Opens the given teacher.

    Args:
      config: names the teacher.
      may_import: whether it may be imported if it is a function.

    Raises:
      ConfigError: if it is a function and must not be imported.
      InputError: if it is missing, damaged or of no known format.
    """
    models = preflight.make_models(config)
    if function.is_function(config.teacher):
        if not may_import:
            raise ConfigError(
                f"config.teacher={config.teacher}: is a function, which is imported "
                "only if --config is on the command line; repeat the command with it"
            )
        return Given(function.model_of(config.teacher, models.target), None)
    teacher = _source(config)
    if "net" not in teacher.card:
        return Given(models.target, teacher)
    model = cards.model_of(teacher.card, config.teacher)
    return Given(model._replace(precision=config.precision.target), teacher)


def _source(config: Config) -> Teacher:
    """Returns the teacher; without a card, a released file of the configured network.

    Such a file does not say what its output means.
    """
    path = local(config.teacher, layout.is_of_model)
    if config.student == "net" and teachers.is_released(path) and _fits(path, config):
        return Teacher({}, path=path)
    return teachers.read_teacher(config.teacher)


def _fits(path: Path, config: Config) -> bool:
    with contextlib.suppress(CheckpointError):
        checkpoint.check_model(path, param_shapes(preflight.make_model(config)))
        return True
    return False


def check(config: Config, given: Given, source: Source) -> None:
    """Refuses a teacher that does not fit the run or its data.

    Raises:
      ConfigError: if its image shape, number of steps or classes differ, or anything
        else of a teacher that is taken as it is.
    """
    model, where = given.model, config.teacher
    card = given.source.card if given.source else {}
    if not config.reparameterize:
        ours = preflight.make_model(config)
        if given.source and given.source.path:
            path = given.source.path
            preflight.check_teacher(config, ours, source.class_names, path)
            return
        rule = "True for a function"
        require(bool(card), "config.reparameterize", False, rule)
        preflight.check_card(ours, where, card)
        preflight.check_settings(where, card, config.net)
    shape, ours = list(model.image_shape), list(config.data.image_shape)
    if shape != ours:
        raise ConfigError(
            f"config.teacher={where}: its image_shape is {shape}, the configuration "
            f"has {ours}"
        )
    preflight.check_num_steps(config, where, card)
    if model.num_classes not in (0, source.num_classes):
        raise ConfigError(
            f"config.teacher={where}: has {model.num_classes} classes, the data has "
            f"{source.num_classes}"
        )
    names = card.get("class_names", ()) if model.num_classes else ()
    preflight.check_classes(where, names, source.class_names)


def load(config: Config, given: Given, template: Params) -> Params:
    """Returns the teacher's parameters in the shapes and on the devices of a template.

    Raises:
      CheckpointError: if they are not those of the network, or not finite.
    """
    if given.source is None:
        return {}
    return teachers.load(given.source, template, config.teacher)


def has_same_params(one: Model, other: Model) -> bool:
    """Whether two networks are of one kind and have parameters of equal shapes."""
    shapes, others = (
        jax.tree.map(lambda leaf: leaf.shape, param_shapes(model))
        for model in (one, other)
    )
    return type(one.net) is type(other.net) and shapes == others


def _is_same(config: Config, card: cards.Card) -> bool:
    """Whether a model has the configured network and output."""
    ours, theirs = config.net, net_from_dict(card["net"])
    if card["output"] != config.parameterization or type(ours) is not type(theirs):
        return False
    if not isinstance(ours, UNetConfig):
        return ours.portable() == theirs.portable()
    # Other settings may be the same U-Net.
    model, other = preflight.make_model(config), cards.model_of(card, config.teacher)
    return has_same_params(model, other) and norm_groups(ours) == norm_groups(theirs)
