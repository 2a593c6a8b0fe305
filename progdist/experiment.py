"""Composes a run from its configuration, and runs it."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from progdist import (
    checkpoint,
    data,
    loop,
    parallel,
    preflight,
    progressive,
    step as steps,
)
from progdist.checkpoint import Checkpoints
from progdist.config import Config, Training
from progdist.display import Display, Work
from progdist.journal import Journal
from progdist.model import Model, init_params, make_model
from progdist.progressive import Phase
from progdist.results import Results
from progdist.state import (
    Snapshot,
    TrainState,
    init_state,
    learning_rate,
    make_optimizer,
    sampling_params,
)

# Network passes of an update without a teacher, its backward pass counted as two.
_UPDATE_COST = 3.0


class Trainer(NamedTuple):
    """How one kind of phase is trained."""

    settings: Training
    optimizer: optax.GradientTransformation
    train_step: steps.TrainStep


class Parts(NamedTuple):
    """A run's pieces, put together once."""

    config: Config
    workdir: Path
    mesh: Mesh
    source: data.Source
    model: Model
    phases: tuple[Phase, ...]
    base: Trainer
    distill: Trainer
    checkpoints: Checkpoints
    journal: Journal
    display: Display
    results: Results

    def trainer(self, phase: int) -> Trainer:
        """Returns the trainer of a phase."""
        return self.distill if phase else self.base


def run(config: Config, workdir: Path) -> None:
    """Runs the plan in `workdir` to its end; goes on where an earlier call stopped.

    Raises:
      ConfigError: if the configuration does not fit the data, the devices, or the run
        that `workdir` holds already.
      DataError: if the data is missing or malformed.
      CheckpointError: if the given teacher cannot be read.
      NonFiniteError: if training diverged.
    """
    parts = _build(config, workdir)
    try:
        progressive.run(
            parts.phases,
            _restore(parts),
            train=functools.partial(_train, parts),
            finish=functools.partial(_finish, parts),
            begin_round=functools.partial(_begin_round, parts),
        )
        parts.results.conclude(parts.phases)
    finally:
        parts.display.close()
        parts.journal.close()
        parts.checkpoints.close()


def make_plan(config: Config) -> tuple[Phase, ...]:
    """Returns the configured phases; a given teacher is not trained."""
    distill = config.distill
    return progressive.plan(
        0 if config.teacher else config.base.num_updates,
        distill.num_updates,
        distill.start_steps,
        distill.end_steps,
        distill.ratio,
        distill.long_rounds,
        distill.long_num_updates,
    )


def _build(config: Config, workdir: Path) -> Parts:
    source, model, phases = (
        preflight.open_source(config),
        make_model(config),
        make_plan(config),
    )
    preflight.check_devices(config, jax.device_count())
    preflight.check_teacher(config, model)
    preflight.claim(config, workdir)
    mesh, first = parallel.make_mesh(), jax.process_index() == 0
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
    progress = checkpoints.latest()
    journal = Journal(workdir, progress.global_step if progress else 0, first)
    display = Display(_work(config, phases), first)
    return Parts(
        config=config,
        workdir=workdir,
        mesh=mesh,
        source=source,
        model=model,
        phases=phases,
        base=_make_base(config, mesh),
        distill=_make_distill(config, mesh),
        checkpoints=checkpoints,
        journal=journal,
        display=display,
        results=Results(
            workdir, model, mesh, config.evaluation, source, journal, display.note
        ),
    )


def _work(config: Config, phases: tuple[Phase, ...]) -> list[Work]:
    """Returns what lies ahead; an update of a round also costs the teacher's calls."""
    distill_cost = _UPDATE_COST + config.distill.ratio
    return [
        Work(phase.num_updates, distill_cost if phase.number else _UPDATE_COST)
        for phase in phases
    ]


def _make_base(config: Config, mesh: Mesh) -> Trainer:
    model = make_model(config, config.base.dropout)
    loss = steps.make_base_loss(
        model.net, model.output, model.schedule, config.base.weight
    )
    return _make_trainer(config.base, loss, mesh)


def _make_distill(config: Config, mesh: Mesh) -> Trainer:
    model, settings = make_model(config, config.distill.dropout), config.distill
    loss = steps.make_distill_loss(
        model.net, model.output, model.schedule, settings.weight, settings.ratio
    )
    return _make_trainer(settings, loss, mesh)


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


def _restore(parts: Parts) -> Snapshot:
    """Where to begin.

    | newest checkpoint       | a teacher given | begin with                 |
    |-------------------------|-----------------|----------------------------|
    | none                    | no              | fresh parameters, phase 0  |
    | none                    | yes             | the teacher's, phase 0     |
    | of phase p, step s      | either          | that, at p and s           |
    """
    params = init_params(parts.model, parts.config.seed, parts.mesh)
    progress = parts.checkpoints.latest()
    if progress is None and parts.config.teacher:
        params = checkpoint.load_model(Path(parts.config.teacher).expanduser(), params)
    trainer = parts.trainer(progress.phase if progress else 0)
    keep_ema = trainer.settings.ema_decay > 0
    state = parallel.replicate(
        init_state(params, trainer.optimizer, keep_ema), parts.mesh
    )
    if progress is None:
        return Snapshot(0, state, ())
    parts.display.note(
        f"resuming at update {progress.step} of phase {progress.phase} "
        f"({parts.phases[progress.phase].title})"
    )
    template = Snapshot(progress.phase, state, params if progress.phase else ())
    return parts.checkpoints.restore(progress, template)


def _train(parts: Parts, phase: Phase, snapshot: Snapshot) -> Snapshot:
    """Carries a phase to its last update."""
    config, trainer = parts.config, parts.trainer(phase.number)
    done = int(snapshot.state.step)
    key = jax.random.fold_in(jax.random.key(config.seed), 1 + phase.number)
    constants = jnp.int32(phase.num_steps), jnp.int32(phase.num_updates), key
    round_ = steps.Round(
        snapshot.teacher_params, *parallel.replicate(constants, parts.mesh)
    )
    batch_size = trainer.settings.batch_size
    batches = data.batches(
        parts.source,
        config.seed,
        phase.first_update + done,
        phase.end_update,
        batch_size,
        config.data.flip,
        parallel.local_rows(batch_size),
    )
    parts.display.start(phase.number, phase.title, done)

    def save(step: int, state: TrainState) -> None:
        snapshot_now = Snapshot(phase.number, state, snapshot.teacher_params)
        parts.checkpoints.save(phase.first_update + step, snapshot_now)

    try:
        state = loop.run(
            trainer.train_step,
            snapshot.state,
            round_,
            (parallel.shard(batch, parts.mesh) for batch in batches),
            phase.num_updates,
            config.log_every,
            config.save_every,
            functools.partial(_log, parts, phase),
            save,
        )
    except loop.NonFiniteError as error:
        raise loop.NonFiniteError(
            f"phase {phase.number} ({phase.title}), {error}"
        ) from None
    return Snapshot(phase.number, state, snapshot.teacher_params)


def _log(parts: Parts, phase: Phase, interval: loop.Interval) -> None:
    parts.journal.metrics(
        {
            "global_step": phase.first_update + interval.step,
            "phase": phase.number,
            "num_steps": phase.num_steps,
            **interval._asdict(),
        }
    )
    parts.display.update(interval.step, interval.loss, interval.steps_per_second)


def _begin_round(parts: Parts, snapshot: Snapshot) -> Snapshot:
    """Swaps student into teacher; on the devices as the train step returns it.

    A state that is placed otherwise would compile the step once more.
    """
    keep_ema = parts.config.distill.ema_decay > 0
    begun = progressive.advance(snapshot, parts.distill.optimizer, keep_ema)
    return begun._replace(state=parallel.replicate(begun.state, parts.mesh))


def _finish(parts: Parts, phase: Phase, snapshot: Snapshot) -> None:
    """Keeps the finished model, then draws and measures."""
    parts.checkpoints.wait()
    params = sampling_params(snapshot.state)
    path = checkpoint.model_dir(parts.workdir, phase.number, phase.num_steps)
    checkpoint.save_model(path, params, _card(parts.config, phase))
    first = checkpoint.model_dir(parts.workdir, 0, parts.phases[0].num_steps)
    teacher_params = checkpoint.load_model(first, params) if phase.number else params
    parts.results.add(phase, params, teacher_params)


def _card(config: Config, phase: Phase) -> dict[str, Any]:
    """What a kept model is, for whoever finds it."""
    return {
        "phase": phase.number,
        "num_steps": phase.num_steps,
        "output": config.model.output,
        "schedule": config.schedule,
        "image_shape": list(config.data.image_shape),
    }
