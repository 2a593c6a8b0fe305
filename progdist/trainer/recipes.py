"""Recipes: how each kind of phase is trained, from the configuration."""

import functools
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from progdist import parallel
from progdist.config import Config, ConfigError, Training
from progdist.model import (
    Model,
    Params,
    has_small_maps,
    param_specs,
    param_template,
)
from progdist.parallel import PyTree
from progdist.plan import Kind, Phase
from progdist.preflight import Models
from progdist.trainer import state_machine, step as steps
from progdist.trainer.gradient import Division
from progdist.trainer.state import (
    Snapshot,
    averaging_rate,
    init_state,
    learning_rate,
    make_optimizer,
    state_specs,
)


class Recipe(NamedTuple):
    """Training of one kind of phase.

    Attributes:
      settings: settings of the phase.
      model: the model to train.
      teacher: the model of the frozen teacher; None in a phase without one.
      optimizer: Adam, without its learning rate.
      specs: `PartitionSpec` of each leaf of the state.
      train_step: the compiled step.
    """

    settings: Training
    model: Model
    teacher: Model | None
    optimizer: optax.GradientTransformation
    specs: PyTree
    train_step: steps.TrainStep

    def begin(self, before: Snapshot) -> Snapshot:
        """Returns the start of a round from the end of the previous phase."""
        return state_machine.swap(before, self.optimizer, keep_ema=self.keeps_ema)

    @property
    def keeps_ema(self) -> bool:
        """Whether the state holds a moving average of the parameters."""
        return self.settings.ema_decay > 0


def make_recipe(
    kind: Kind, config: Config, models: Models, given: Model | None, mesh: Mesh
) -> Recipe:
    """Returns the recipe of a kind of phase, with its train step on the mesh.

    Args:
      kind: kind of the phase.
      config: the configuration.
      models: the configured model in its precisions.
      given: the given teacher, for "reparameterize".
      mesh: the devices.

    Raises:
      ValueError: if the kind is not one of `Kind`, or lacks its teacher.
    """
    model, base, distill = models.training, config.base, config.distill
    match kind:
        case "base":
            loss = steps.make_base_loss(model, weight=base.weight, dropout=base.dropout)
            return _make_recipe(base, model, None, loss, mesh)
        case "reparameterize" if given:
            loss = _towards(given, model, base, ratio=1, is_given=True)
            return _make_recipe(base, model, given, loss, mesh)
        case "distill":
            loss = _towards(models.target, model, distill, ratio=distill.ratio)
            return _make_recipe(distill, model, models.target, loss, mesh)
    raise ValueError(
        f"kind: {kind!r} lacks its teacher, or is none of {get_args(Kind)}"
    )


def _towards(
    teacher: Model, student: Model, settings: Training, **options: Any
) -> steps.Loss:
    weight, dropout = settings.weight, settings.dropout
    return steps.make_distill_loss(
        student, teacher, weight=weight, dropout=dropout, **options
    )


def make_template(recipe: Recipe, phase: int, mesh: Mesh) -> Snapshot:
    """Returns shapes, dtypes and shardings of a snapshot of the phase."""
    params = param_template(recipe.model, mesh)
    state = jax.eval_shape(
        lambda p: init_state(p, recipe.optimizer, recipe.keeps_ema), params
    )
    state = parallel.placed_shapes(state, mesh, recipe.specs)
    teacher = () if recipe.teacher is None else param_template(recipe.teacher, mesh)
    return Snapshot(phase, state, teacher)


def make_round(
    seed: int, phase: Phase, teacher_params: Params, mesh: Mesh
) -> steps.Round:
    """Returns the phase's constants, on every device."""
    key = jax.random.fold_in(jax.random.key(seed), 1 + phase.number)
    constants = jnp.int32(phase.num_steps), jnp.int32(phase.num_updates), key
    return steps.Round(teacher_params, *parallel.place(constants, mesh))


def division_of(settings: Training) -> Division:
    """Returns the division of the batches of a kind of phase."""
    return Division(settings.clip_norm, settings.clip_groups, settings.micro_batch_size)


def check_division(config: Config, num_devices: int) -> None:
    """Refuses clip groups and micro-batches that the devices cannot share evenly.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    for name, settings in (("base", config.base), ("distill", config.distill)):
        try:
            share = settings.batch_size // num_devices
            division_of(settings).parts(share, num_devices)
        except ValueError as error:
            raise ConfigError(f"config.{name}.{error}") from None


def _make_recipe(
    settings: Training,
    model: Model,
    teacher: Model | None,
    loss: steps.Loss,
    mesh: Mesh,
) -> Recipe:
    optimizer = make_optimizer(
        weight_decay=settings.weight_decay,
        b1=settings.adam_b1,
        b2=settings.adam_b2,
        eps=settings.adam_eps,
    )
    specs = state_specs(param_specs(model), optimizer, settings.ema_decay > 0)
    train_step = steps.make_train_step(
        loss,
        optimizer,
        rate=functools.partial(
            learning_rate,
            peak=settings.learning_rate,
            warmup_updates=settings.warmup_updates,
            anneal=settings.anneal,
        ),
        ema_rate=functools.partial(
            averaging_rate, decay=settings.ema_decay, warmup=settings.ema_warmup
        ),
        mesh=mesh,
        division=division_of(settings),
        times=settings.times,
        state_specs=specs,
        teacher_specs=() if teacher is None else param_specs(teacher),
        small_maps=all(has_small_maps(m) for m in (model, teacher) if m),
    )
    return Recipe(settings, model, teacher, optimizer, specs, train_step)
