"""A run, from its configuration to its report."""

import functools
from contextlib import ExitStack
from pathlib import Path

from progdist import checkpoint, parallel, preflight
from progdist.config import Config
from progdist.config.check import long_averages
from progdist.evaluate import evaluator, references
from progdist.evaluate.evaluator import Evaluator
from progdist.trainer import given, phase, resume, start, state_machine
from progdist.trainer.build import Pieces, build
from progdist.trainer.phase_end import PhaseEnd
from progdist.trainer.preemption import Interrupt
from progdist.workdir import layout, provenance
from progdist.workdir.mirror import Mirror, lock_of, path_of
from progdist.workdir.weights_and_biases import WandbRun


def run(
    config: Config,
    workdir: Path | Mirror,
    interrupt: Interrupt | None = None,
    override: bool = False,
    wandb_project: str | None = None,
    profile: range = range(0),
    may_import: bool = False,
) -> None:
    """Runs the plan in `workdir` to its end; resumes where an earlier call stopped.

    Args:
      config: the configuration.
      workdir: directory used only by this run, on storage that all processes share;
        or this process's copy of one in a bucket.
      interrupt: listener whose signals stop the run early; none by default.
      override: whether the configuration may differ from that of the first start.
      wandb_project: project of W&B that gets the rows and pictures; None for none.
      profile: numbers of the updates to trace, from 1 over all phases.
      may_import: whether a teacher that is a function may be imported.

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
    lock, workdir = lock_of(workdir), path_of(workdir)
    interrupt = interrupt or Interrupt()
    provenance.code()  # of the cards; files may change while the run goes on
    open_given = functools.cache(lambda: given.open_given(config, may_import))
    source = parallel.together(lambda: start.check(config, workdir, open_given))
    evaluation = config.evaluation
    is_fresh = not checkpoint.snapshot_steps(workdir / layout.CHECKPOINTS)
    extractors = parallel.together(
        lambda: (
            evaluator.open_extractors(evaluation, source.image_shape)
            if evaluation.enabled
            else []
        )
    )
    with ExitStack() as stack:
        teacher = open_given().model if config.reparameterize and is_fresh else None
        own = functools.partial(
            start.own, config, workdir, override, lock, stack, teacher
        )
        parallel.on_process_zero(own)
        if isinstance(lock, Mirror):
            parallel.together(lock.pull_unless_owned)
            stack.callback(interrupt.closing)
        with parallel.refused_by_all():
            resume.check_same_everywhere(config, workdir, source, override)
        wandb_run = start.open_wandb(config, workdir, wandb_project, stack)
        pieces = build(
            config,
            workdir,
            models=preflight.make_models(config),
            given=open_given,
            source=source,
            extractors=extractors,
            interrupt=interrupt,
            lock=lock,
            override=override,
            profile=profile,
            stack=stack,
        )
        _run(pieces, wandb_run, stack)


def _run(pieces: Pieces, wandb_run: WandbRun | None, stack: ExitStack) -> None:
    with parallel.refused_by_all():
        global_step, snapshot = start.restore(pieces)
    start.show_facts(pieces, global_step, snapshot)
    parallel.on_process_zero(
        lambda: resume.keep_plan(pieces.config, pieces.phases, pieces.workdir)
    )
    journal = start.open_journal(pieces, global_step, wandb_run, stack)
    for line in long_averages(pieces.config):
        pieces.display.note(line)
    phase_end = PhaseEnd(
        pieces.workdir,
        pieces.models.sampling,
        pieces.config.evaluation,
        _make_evaluator(pieces) if pieces.extractors else None,
        journal,
        pieces.display,
    )
    state_machine.run(
        pieces.phases,
        snapshot,
        train=functools.partial(phase.train, pieces, journal),
        finish=functools.partial(
            phase.finish,
            pieces,
            phase_end,
            functools.cache(functools.partial(phase.read_base_params, pieces)),
        ),
        begin_round=functools.partial(phase.begin_round, pieces),
    )
    phase_end.conclude(pieces.phases)
    # The others must not exit while process 0 still draws figures.
    parallel.barrier("the run is concluded")


def _make_evaluator(pieces: Pieces) -> Evaluator:
    config = pieces.config
    reference = references.make_reference(
        pieces.source,
        config.data.split,
        config.evaluation.batch_size,
        config.data.num_workers,
        config.evaluation.reference_images,
    )

    counting = pieces.preemption.watched(pieces.display.counting)
    return Evaluator(
        pieces.mesh,
        config.evaluation,
        pieces.extractors,
        reference._replace(counting=counting),
        pieces.workdir / layout.MEASURING,
    )
