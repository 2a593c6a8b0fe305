"""Composes a run from its configuration, and runs it."""

import contextlib
import functools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from progdist import checkpoint, data, parallel, preflight
from progdist.checkpoint import Progress
from progdist.config import Config, defaults_of_changed
from progdist.diffusion import logsnr_bins
from progdist.evaluate import references
from progdist.model import init_params, make_model
from progdist.plan import Phase
from progdist.trainer import loop, recipes as trainer, resume as workdirs, state_machine
from progdist.trainer.display import Display
from progdist.trainer.parts import Parts, build
from progdist.trainer.phase_end import Results
from progdist.trainer.preemption import Interrupt
from progdist.trainer.state import Snapshot, TrainState, init_state, sampling_params
from progdist.workdir import provenance
from progdist.workdir.journal import Journal
from progdist.workdir.lock import Lock
from progdist.workdir.rows import MetricsRow


def run(
    config: Config,
    workdir: Path,
    interrupt: Interrupt | None = None,
    override: bool = False,
) -> None:
    """Runs the plan in `workdir` to its end; goes on where an earlier call stopped.

    Args:
      config: the configuration; what may change when a run goes on, see there.
      workdir: of this run alone, on storage that all processes share.
      interrupt: what stops the run early; by default nothing does.
      override: go on with another configuration than the run began with.

    Raises:
      ConfigError: if the configuration does not fit the data, the devices, or the run
        that `workdir` holds already.
      DataError: if the data is missing or malformed.
      CheckpointError: if the given teacher or all checkpoints cannot be read.
      LockError: if another run owns the workdir.
      NonFiniteError: if training diverged.
      SaveError: if something could not be written.
      PeerError: if that happened to process 0, on the others.
      Interrupted: if it was asked to stop; the state is saved.
    """
    preflight.check_devices(config, jax.device_count())
    source = preflight.open_source(config)
    if not checkpoint.snapshot_steps(workdir / "checkpoints"):
        preflight.check_teacher(config, make_model(config))
    with ExitStack() as stack:
        own = functools.partial(_own, config, workdir, override, stack)
        parallel.first_does(own)
        workdirs.check_same_everywhere(config, workdir, source, override)
        interrupt = interrupt or Interrupt()
        parts = build(config, workdir, source, interrupt, override, stack)
        _run(parts, stack)


def _own(config: Config, workdir: Path, override: bool, stack: ExitStack) -> None:
    """Makes the workdir this run's, and removes what others left half done."""
    workdirs.make(workdir)
    stack.enter_context(Lock(workdir))
    if not override:
        workdirs.check_same(config, workdir)
    for directory in ("checkpoints", "models"):
        checkpoint.clear_leftovers(workdir / directory)


def _run(parts: Parts, stack: ExitStack) -> None:
    global_step, snapshot = _restore(parts)
    keep = functools.partial(workdirs.keep_config, parts.config, parts.workdir)
    parallel.first_does(keep)
    first = jax.process_index() == 0
    journal = Journal(parts.workdir, global_step, logsnr_bins.EDGES, first)
    stack.push(journal.close)
    defaults = defaults_of_changed(parts.config)
    parallel.first_does(
        lambda: journal.start(provenance.of_start(defaults, global_step))
    )
    results = Results(
        parts.workdir,
        parts.model,
        parts.mesh,
        parts.config.evaluation,
        references.make_reference(
            parts.source,
            parts.config.data.split,
            parts.config.evaluation.batch_size,
            parts.config.data.num_workers,
        ),
        journal,
        parts.display.note,
        parts.pulse.check,
    )
    state_machine.run(
        parts.phases,
        snapshot,
        train=functools.partial(_train, parts, journal),
        finish=functools.partial(_finish, parts, results),
        begin_round=functools.partial(_begin_round, parts),
    )
    results.conclude(parts.phases)
    # Process 0 draws figures; the others would not wait for it as long when they end.
    parallel.barrier("the run is concluded")


def _restore(parts: Parts) -> tuple[int, Snapshot]:
    """Where to begin, after how many updates.

    | newest checkpoint       | a teacher given | begin with                 |
    |-------------------------|-----------------|----------------------------|
    | none                    | no              | fresh parameters, phase 0  |
    | none                    | yes             | the teacher's, phase 0     |
    | of phase p, step s      | either          | that, at p and s           |
    | damaged                 | either          | the one before             |
    | all damaged, or lost    | either          | an error                   |
    """
    restored = parts.checkpoints.restore_newest(functools.partial(_template, parts))
    if restored is None:
        workdirs.check_nothing_lost(parts.workdir, bool(parts.config.teacher))
        return 0, _fresh(parts)
    progress, snapshot = restored
    parts.display.note(
        f"resuming at update {progress.step} of phase {progress.phase} "
        f"({parts.phases[progress.phase].title})"
    )
    return progress.global_step, snapshot


def _template(parts: Parts, progress: Progress) -> Snapshot:
    workdirs.check_progress(parts.phases, progress, parts.workdir)
    if not parts.override:
        workdirs.check_same_data(parts.source, progress, parts.workdir)
    phase = progress.phase
    return trainer.make_template(
        parts.model, parts.trainers.of(phase), phase, parts.mesh
    )


def _fresh(parts: Parts) -> Snapshot:
    params = init_params(parts.model, parts.config.seed, parts.mesh)
    if parts.config.teacher:
        params = checkpoint.load_model(Path(parts.config.teacher).expanduser(), params)
    base = parts.trainers.base
    state = init_state(params, base.optimizer, base.keeps_ema)
    return Snapshot(0, parallel.replicate(state, parts.mesh), ())


def _train(
    parts: Parts, journal: Journal, phase: Phase, snapshot: Snapshot
) -> Snapshot:
    """Carries a phase to its last update."""
    config, teacher_params = parts.config, snapshot.teacher_params
    parts.display.start(phase.number, phase.title, int(snapshot.state.step))

    def save(step: int, state: TrainState, tally: loop.Tally) -> None:
        snapshot_now = Snapshot(phase.number, state, teacher_params, tally)
        with parts.pulse.saving():
            parts.checkpoints.save(phase.first_update + step, snapshot_now)

    where = f"phase {phase.number} ({phase.title})"
    try:
        state = loop.run(
            parts.trainers.of(phase.number).train_step,
            snapshot.state,
            trainer.make_round(config.seed, phase, teacher_params, parts.mesh),
            _batches(parts, phase, int(snapshot.state.step)),
            loop.Pace(
                phase.num_updates,
                config.log_every,
                config.save_every,
                config.max_skipped,
            ),
            loop.Hooks(
                functools.partial(_log, parts.display, journal, phase),
                save,
                parts.pulse.stops,
            ),
            snapshot.tally,
        )
    except loop.NonFiniteError as error:
        raise loop.NonFiniteError(f"{where}, {error}") from None
    except loop.Stopped as stop:
        parts.checkpoints.wait()
        raise parts.pulse.interrupted(
            f"saved at update {stop.step} of {where}"
        ) from None
    return Snapshot(phase.number, state, teacher_params)


def _batches(parts: Parts, phase: Phase, done: int) -> Iterator[Any]:
    """Yields the rest of the phase's batches, on the devices."""
    batch_size = parts.trainers.of(phase.number).settings.batch_size
    batches = data.batches(
        parts.source,
        parts.config.seed,
        phase.first_update + done,
        phase.end_update,
        batch_size,
        parts.config.data.flip,
        parallel.local_rows(batch_size),
        parts.config.data.num_workers,
    )
    with contextlib.closing(batches):
        for batch in batches:
            yield parallel.shard(batch, parts.mesh)


def _log(
    display: Display, journal: Journal, phase: Phase, interval: loop.Interval
) -> None:
    journal.metrics(
        MetricsRow(
            global_step=phase.first_update + interval.step,
            phase=phase.number,
            num_steps=phase.num_steps,
            **interval._asdict(),
        )
    )
    display.update(interval.step, interval.loss, interval.steps_per_second)


def _begin_round(parts: Parts, snapshot: Snapshot) -> Snapshot:
    """Swaps student into teacher; on the devices as the train step returns it.

    A state that is placed otherwise would compile the step once more.
    """
    distill = parts.trainers.distill
    begun = state_machine.advance(snapshot, distill.optimizer, distill.keeps_ema)
    return begun._replace(state=parallel.replicate(begun.state, parts.mesh))


def _finish(parts: Parts, results: Results, phase: Phase, snapshot: Snapshot) -> None:
    """Keeps the finished model, then draws and measures."""
    with parts.pulse.saving():
        parts.checkpoints.wait()
    params = sampling_params(snapshot.state)
    path = checkpoint.model_dir(parts.workdir, phase.number, phase.num_steps)
    checkpoint.save_model(path, params, _facts(parts.config, phase))
    teacher = parts.phases[0]
    first = checkpoint.model_dir(parts.workdir, 0, teacher.num_steps)
    teacher_params = checkpoint.load_model(first, params) if phase.number else params
    results.add(phase, params, teacher, teacher_params)


def _facts(config: Config, phase: Phase) -> dict[str, Any]:
    """What a kept model is, for whoever finds it."""
    return {
        "phase": phase.number,
        "num_steps": phase.num_steps,
        "output": config.model.output,
        "schedule": config.schedule,
        "image_shape": list(config.data.image_shape),
    }
