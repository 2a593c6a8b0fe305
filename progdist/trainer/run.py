"""A run, from its configuration to its report."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from progdist import checkpoint, data, parallel, preflight
from progdist.config import Config, defaults_of_changed
from progdist.config.check import long_averages
from progdist.diffusion import logsnr_bins
from progdist.errors import NonFiniteError
from progdist.evaluate import evaluator, references
from progdist.evaluate.evaluator import Evaluator
from progdist.model import Params, init_params, param_template
from progdist.plan import Phase
from progdist.sampling import cards
from progdist.trainer import loop, recipes, resume, state_machine
from progdist.trainer.build import Pieces, build
from progdist.trainer.display import Display
from progdist.trainer.phase_end import PhaseEnd
from progdist.trainer.preemption import Interrupt
from progdist.trainer.state import (
    Progress,
    Snapshot,
    TrainState,
    facts_of,
    init_state,
    progress_of,
    sampling_params,
    snapshot_of,
    tree_of,
)
from progdist.workdir import files, layout, provenance
from progdist.workdir.journal import Journal
from progdist.workdir.lock import Lock
from progdist.workdir.rows import MetricsRow


def run(
    config: Config,
    workdir: Path,
    interrupt: Interrupt | None = None,
    override: bool = False,
) -> None:
    """Runs the plan in `workdir` to its end; resumes where an earlier call stopped.

    Args:
      config: the configuration.
      workdir: directory used only by this run, on storage that all processes share.
      interrupt: listener whose signals stop the run early; none by default.
      override: whether the configuration may differ from that of the first start.

    Raises:
      ConfigError: if the configuration does not fit the data, the devices, or the run
        that `workdir` already holds.
      DataError: if the data is missing or malformed.
      CheckpointError: if the given teacher or all checkpoints cannot be read.
      LockError: if another process owns the workdir.
      NonFiniteError: if training diverged.
      SaveError: if a file could not be written.
      PeerError: on the other processes, if process 0 failed.
      Interrupted: if a signal asked it to stop; the state is saved.
    """
    provenance.code()  # of the cards; files may change while the run goes on
    source = check_start(config, workdir)
    evaluation, models = config.evaluation, preflight.make_models(config)
    extractors = (
        evaluator.open_extractors(evaluation, source.image_shape)
        if evaluation.enabled
        else []
    )
    with ExitStack() as stack:
        lock = Lock(workdir)
        own = functools.partial(_own, config, workdir, override, lock, stack)
        parallel.on_process_zero(own)
        resume.check_same_everywhere(config, workdir, source, override)
        pieces = build(
            config,
            workdir,
            models=models,
            source=source,
            extractors=extractors,
            interrupt=interrupt or Interrupt(),
            lock=lock,
            override=override,
            stack=stack,
        )
        _run(pieces, stack)


def check_start(config: Config, workdir: Path) -> data.Source:
    """Refuses a run whose data, teacher, devices or metrics do not fit; opens its data.

    Raises:
      ConfigError: if the configuration does not fit the data or the devices.
      DataError: if the data is missing or malformed.
      CheckpointError: if the given teacher is missing or does not fit.
      UsageError: if a metric cannot be computed.
    """
    preflight.check_devices(config, jax.device_count())
    preflight.check_memory(config, jax.process_count())
    source, evaluation = preflight.open_source(config), config.evaluation
    if not checkpoint.snapshot_steps(workdir / layout.CHECKPOINTS):
        model = preflight.make_models(config)["base"]
        preflight.check_teacher(config, model, source.class_names)
    if evaluation.enabled:
        prefix = "config.evaluation."
        counts = {
            f"{prefix}num_samples": evaluation.num_samples,
            f"the data's {config.data.split}": len(source),
        }
        evaluator.check(evaluation, counts, prefix)
    return source


def _own(
    config: Config, workdir: Path, override: bool, lock: Lock, stack: ExitStack
) -> None:
    """Locks the workdir for this run and removes unfinished writes of earlier ones."""
    resume.make(workdir)
    stack.enter_context(lock)
    if not override:
        resume.check_same(config, workdir)
        resume.check_same_numerics(workdir)
    for directory in (layout.CHECKPOINTS, layout.MODELS):
        checkpoint.clear_leftovers(workdir / directory)


def _run(pieces: Pieces, stack: ExitStack) -> None:
    global_step, snapshot = restore(pieces)
    parallel.on_process_zero(
        lambda: resume.keep_plan(pieces.config, pieces.phases, pieces.workdir)
    )
    journal = _open_journal(pieces, global_step, stack)
    for line in long_averages(pieces.config):
        pieces.display.note(line)
    phase_end = PhaseEnd(
        pieces.workdir,
        lambda phase: pieces.recipe(phase.number).model,
        pieces.config.evaluation,
        _make_evaluator(pieces) if pieces.extractors else None,
        journal,
        pieces.display.note,
    )
    state_machine.run(
        pieces.phases,
        snapshot,
        train=functools.partial(_train, pieces, journal),
        finish=functools.partial(
            _finish,
            pieces,
            phase_end,
            functools.cache(functools.partial(_read_base_params, pieces)),
        ),
        begin_round=functools.partial(_begin_round, pieces),
    )
    phase_end.conclude(pieces.phases)
    # The others must not exit while process 0 still draws figures.
    parallel.barrier("the run is concluded")


def _open_journal(pieces: Pieces, global_step: int, stack: ExitStack) -> Journal:
    """Opens the journal and records the start; the stack closes it."""
    journal = Journal(
        pieces.workdir,
        global_step,
        logsnr_bins.EDGES,
        jax.process_index() == 0,
        pieces.lock.check,
    )
    stack.push(journal.close)
    parallel.on_process_zero(lambda: _record_start(pieces, journal, global_step))
    return journal


def _record_start(pieces: Pieces, journal: Journal, global_step: int) -> None:
    """Appends the row of this start; warns of lost rows of metrics, and notes them."""
    config, workdir = pieces.config, pieces.workdir
    row = provenance.of_start(
        defaults_of_changed(config), global_step, _class_names(pieces)
    )
    gaps = resume.missing_rows(workdir, global_step, config.log_every)
    for before, last in gaps:
        updates = f"updates {before + 1} to {last}"
        pieces.display.note(f"{workdir / layout.METRICS}: lacks rows of {updates}")
    journal.start(row | ({"missing_rows": gaps} if gaps else {}))


def _make_evaluator(pieces: Pieces) -> Evaluator:
    config = pieces.config
    reference = references.make_reference(
        pieces.source,
        config.data.split,
        config.evaluation.batch_size,
        config.data.num_workers,
    )

    @contextlib.contextmanager
    def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Counts in the display of the run, and lets a signal end the run."""
        with pieces.display.counting(title, total) as advance:

            def advance_or_stop(count: int) -> None:
                pieces.preemption.check()
                advance(count)

            yield advance_or_stop

    reference = reference._replace(counting=counting)
    return Evaluator(pieces.mesh, config.evaluation, pieces.extractors, reference)


def restore(pieces: Pieces) -> tuple[int, Snapshot]:
    """Returns the number of updates done, and the snapshot to start from."""
    restored = pieces.checkpoints.restore_newest(
        lambda facts: tree_of(_template(pieces, progress_of(facts)))
    )
    if restored is None:
        resume.check_nothing_lost(pieces.workdir, bool(pieces.config.teacher))
        return 0, _fresh(pieces)
    snapshot, progress = snapshot_of(*restored), progress_of(restored[1])
    pieces.display.note(
        f"resuming at update {progress.step} of phase {progress.phase} "
        f"({pieces.phases[progress.phase].title})"
    )
    return progress.global_step, snapshot


def _template(pieces: Pieces, progress: Progress) -> Snapshot:
    resume.check_progress(pieces.phases, progress, pieces.workdir)
    if not pieces.override:
        resume.check_same_data(
            pieces.source, progress, pieces.workdir, pieces.display.note
        )
    phase = progress.phase
    return recipes.make_template(pieces.recipe(phase), phase, pieces.mesh)


def _fresh(pieces: Pieces) -> Snapshot:
    recipe = pieces.recipe(0)
    params = init_params(recipe.model, pieces.config.seed, pieces.mesh)
    if pieces.config.teacher:
        params = checkpoint.load_model(files.expand(pieces.config.teacher), params)
    state = init_state(params, recipe.optimizer, recipe.keeps_ema)
    return Snapshot(0, parallel.place(state, pieces.mesh, recipe.specs), ())


def _train(
    pieces: Pieces, journal: Journal, phase: Phase, snapshot: Snapshot
) -> Snapshot:
    """Trains a phase to its last update."""
    config, teacher_params = pieces.config, snapshot.teacher_params
    pieces.display.start(phase, int(snapshot.state.step))

    def save(step: int, state: TrainState, tally: loop.Tally) -> None:
        snapshot_now = Snapshot(phase.number, state, teacher_params, tally)
        global_step = phase.first_update + step
        pieces.lock.check()
        facts = facts_of(snapshot_now, global_step, pieces.source.fingerprint)
        with pieces.preemption.saving():
            pieces.checkpoints.save(global_step, tree_of(snapshot_now), facts)

    where = f"phase {phase.number} ({phase.title})"
    try:
        state = loop.run(
            pieces.recipe(phase.number).train_step,
            snapshot.state,
            recipes.make_round(config.seed, phase, teacher_params, pieces.mesh),
            batches=_batches(pieces, phase, int(snapshot.state.step)),
            pace=loop.Pace(
                phase.num_updates,
                config.log_every,
                config.save_every,
                config.max_skipped,
            ),
            hooks=loop.Hooks(
                functools.partial(_log, pieces.display, journal, phase),
                save,
                functools.partial(_stops, pieces),
            ),
            tally=snapshot.tally,
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"training diverged: {where}, {error}") from None
    except loop.Stopped as stop:
        pieces.checkpoints.wait()
        raise pieces.preemption.interrupted(
            f"saved at update {stop.step} of {where}"
        ) from None
    return Snapshot(phase.number, state, teacher_params)


def _batches(pieces: Pieces, phase: Phase, done: int) -> Iterator[Any]:
    """Yields the rest of the phase's batches, on the devices."""
    batch_size = pieces.recipe(phase.number).settings.batch_size
    batches = data.batches(
        pieces.source,
        pieces.config.seed,
        phase.first_update + done,
        phase.end_update,
        batch_size,
        pieces.config.data.flip,
        parallel.local_rows(batch_size),
        pieces.config.data.num_workers,
    )
    with contextlib.closing(batches):
        for batch in batches:
            yield parallel.shard(batch, pieces.mesh)


def _stops(pieces: Pieces) -> bool:
    """Shows the update that is under way; returns whether to stop after it."""
    pieces.display.step()
    return pieces.preemption.stops()


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


def _begin_round(pieces: Pieces, snapshot: Snapshot) -> Snapshot:
    """Swaps student into teacher, with the shardings that the train step returns.

    Any other shardings would compile the step once more.
    """
    recipe = pieces.recipe(snapshot.phase + 1)
    begun = recipe.begin(snapshot)
    state = parallel.place(begun.state, pieces.mesh, recipe.specs)
    return begun._replace(state=state)


def _finish(
    pieces: Pieces,
    phase_end: PhaseEnd,
    base_params: Callable[[], Params],
    phase: Phase,
    snapshot: Snapshot,
) -> None:
    """Saves the finished model, then evaluates it and the base model."""
    pieces.lock.check()
    with pieces.preemption.saving():
        pieces.checkpoints.wait()
    params = sampling_params(snapshot.state)
    path = checkpoint.model_dir(pieces.workdir, phase.number, phase.num_steps)
    card = cards.make_card(pieces.config, phase, pieces.source)
    checkpoint.save_model(path, params, card)
    if phase.kind == "base":
        base = params
    else:
        template = param_template(pieces.recipe(0).model, pieces.mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        base = jax.device_put(base_params(), shardings)
    phase_end.add(phase, params, pieces.phases[0], base)


def _read_base_params(pieces: Pieces) -> Params:
    """Reads the model of phase 0 into host memory, not onto a device."""
    path = checkpoint.model_dir(pieces.workdir, 0, pieces.phases[0].num_steps)
    template = param_template(pieces.recipe(0).model, pieces.mesh)
    return jax.device_get(checkpoint.load_model(path, template))


def _class_names(pieces: Pieces) -> list[str] | None:
    """Returns the names of the classes, by number; None for unconditional models."""
    conditional = pieces.config.net.num_classes
    return list(pieces.source.class_names) if conditional else None
