"""How each kind of phase is trained, from the configuration."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from progdist import parallel, plan as phases
from progdist.config import Config, Training
from progdist.model import Model, make_model, param_template
from progdist.plan import Phase
from progdist.trainer import step as steps
from progdist.trainer.state import Snapshot, init_state, learning_rate, make_optimizer


class Trainer(NamedTuple):
    """How one kind of phase is trained."""

    settings: Training
    optimizer: optax.GradientTransformation
    train_step: steps.TrainStep

    @property
    def keeps_ema(self) -> bool:
        """Whether the state holds an average of the parameters."""
        return self.settings.ema_decay > 0


class Trainers(NamedTuple):
    """That of the base model, and that of the rounds."""

    base: Trainer
    distill: Trainer

    def of(self, phase: int) -> Trainer:
        """Returns the trainer of a phase."""
        return self.distill if phase else self.base


def make_plan(config: Config) -> tuple[Phase, ...]:
    """Returns the configured phases; a given teacher is not trained."""
    distill = config.distill
    return phases.plan(
        0 if config.teacher else config.base.num_updates,
        distill.num_updates,
        distill.start_steps,
        distill.end_steps,
        distill.ratio,
        distill.long_rounds,
        distill.long_num_updates,
    )


def make_trainers(config: Config, mesh: Mesh) -> Trainers:
    """Returns the trainers, with their compiled steps on the mesh."""
    base, distill = config.base, config.distill
    model = make_model(config, base.dropout)
    base_loss = steps.make_base_loss(
        model.net, model.output, model.schedule, base.weight
    )
    model = make_model(config, distill.dropout)
    distill_loss = steps.make_distill_loss(
        model.net, model.output, model.schedule, distill.weight, distill.ratio
    )
    return Trainers(
        _make_trainer(base, base_loss, mesh), _make_trainer(distill, distill_loss, mesh)
    )


def make_template(model: Model, trainer: Trainer, phase: int, mesh: Mesh) -> Snapshot:
    """Returns what a snapshot of a phase looks like: shapes, dtypes and places."""
    params = param_template(model, mesh)
    state = jax.eval_shape(
        lambda p: init_state(p, trainer.optimizer, trainer.keeps_ema), params
    )
    state = parallel.replicated_shapes(state, mesh)
    return Snapshot(phase, state, params if phase else ())


def make_round(
    seed: int, phase: Phase, teacher_params: steps.Params, mesh: Mesh
) -> steps.Round:
    """Returns the phase's constants, on every device."""
    key = jax.random.fold_in(jax.random.key(seed), 1 + phase.number)
    constants = jnp.int32(phase.num_steps), jnp.int32(phase.num_updates), key
    return steps.Round(teacher_params, *parallel.replicate(constants, mesh))


def _make_trainer(settings: Training, loss: steps.Loss, mesh: Mesh) -> Trainer:
    optimizer = make_optimizer(settings.clip_norm, settings.weight_decay)
    rate = functools.partial(
        learning_rate,
        peak=settings.learning_rate,
        warmup_updates=settings.warmup_updates,
        anneal=settings.anneal,
    )
    train_step = steps.make_train_step(loss, optimizer, rate, settings.ema_decay, mesh)
    return Trainer(settings, optimizer, train_step)
