"""Start of a run: its checks, its files, and the snapshot to start from."""

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import jax

from progdist import checkpoint, data, parallel, preflight
from progdist.config import (
    Config,
    ConfigError,
    defaults_of_changed,
    plan_of,
    to_json,
)
from progdist.data.progress import print_line
from progdist.diffusion import logsnr_bins
from progdist.evaluate import evaluator
from progdist.model import Model, Params, init_params, param_template
from progdist.trainer import given, recipes, resume, tracing
from progdist.trainer.build import Pieces
from progdist.trainer.given import Given
from progdist.trainer.state import (
    Progress,
    Snapshot,
    init_state,
    progress_of,
    snapshot_of,
    tree_of,
)
from progdist.trainer.summary import (
    fact_lines,
    model_bytes,
    size_text,
    snapshot_bytes,
)
from progdist.workdir import layout, provenance
from progdist.workdir.journal import Journal
from progdist.workdir.lock import Lock
from progdist.workdir.mirror import Mirror
from progdist.workdir.weights_and_biases import WandbRun


def check(
    config: Config, workdir: Path, open_given: Callable[[], Given]
) -> data.Source:
    """Refuses a run whose data, teacher, devices or metrics do not fit; opens its data.

    Raises:
      ConfigError: if the configuration does not fit the data or the devices.
      DataError: if the data is missing or malformed.
      CheckpointError: if the given teacher is missing or does not fit.
      UsageError: if a metric cannot be computed.
    """
    preflight.check_devices(config, jax.device_count())
    recipes.check_division(config, jax.device_count())
    preflight.check_precision(config, jax.default_backend())
    preflight.check_memory(config, jax.process_count())
    source, evaluation = preflight.open_source(config), config.evaluation
    if not checkpoint.snapshot_steps(workdir / layout.CHECKPOINTS):
        preflight.check_dtype(config)
        if config.teacher:
            given.check(config, open_given(), source)
    if evaluation.enabled:
        prefix = "config.evaluation."
        counts = {
            f"{prefix}num_samples": evaluation.num_samples,
            f"the data's {config.data.split}": len(source),
        }
        evaluator.check(evaluation, counts, prefix)
    return source


def check_disk(config: Config, workdir: Path, teacher: Model | None = None) -> None:
    """Refuses a run whose checkpoints and models do not fit on the disk.

    Args:
      config: the configuration.
      workdir: directory of the run.
      teacher: the given teacher, if phase 0 keeps it in its checkpoints.

    Raises:
      ConfigError: with the sizes.
    """
    model = preflight.make_model(config)
    plan = plan_of(config)
    # A checkpoint is complete before the oldest one is removed.
    saved = sum(-(-phase.num_updates // config.save_every) for phase in plan)
    count = min(config.keep_checkpoints + 1, saved)
    snapshot = snapshot_bytes(config, model, teacher)
    needed = count * snapshot + len(plan) * model_bytes(model)
    written = [workdir / layout.CHECKPOINTS, workdir / layout.MODELS]
    paths = (path for directory in written for path in directory.rglob("*"))
    there = sum(path.stat().st_size for path in paths if path.is_file())
    parents = (path for path in (workdir, *workdir.parents) if path.is_dir())
    free = shutil.disk_usage(next(parents)).free
    if needed > free + there:
        raise ConfigError(
            f"{workdir}: {count} checkpoints and {len(plan)} models take "
            f"{size_text(needed - there)} more, and {size_text(free)} are free; see "
            "config.keep_checkpoints"
        )


def own(
    config: Config,
    workdir: Path,
    override: bool,
    lock: Lock | Mirror,
    stack: ExitStack,
    teacher: Model | None = None,
) -> None:
    """Locks the workdir for this run and removes unfinished writes of earlier ones."""
    resume.make(workdir)
    stack.enter_context(lock)  # for a mirror, the files are there only now
    if not override:
        resume.check_same(config, workdir)
        resume.check_same_numerics(workdir)
    for directory in (layout.CHECKPOINTS, layout.MODELS):
        checkpoint.clear_leftovers(workdir / directory)
    check_disk(config, workdir, teacher)


def open_wandb(
    config: Config, workdir: Path, project: str | None, stack: ExitStack
) -> WandbRun | None:
    """Opens the run of W&B on process 0, if there is a project; the stack closes it."""
    opened = []

    def enter() -> None:
        if project:
            settings = json.loads(to_json(config))
            wandb_run = WandbRun(workdir, project, settings, print_line)
            opened.append(stack.enter_context(wandb_run))

    parallel.on_process_zero(enter)
    return opened[0] if opened else None


def restore(pieces: Pieces) -> tuple[int, Snapshot]:
    """Returns the number of updates done, and the snapshot to start from."""
    with pieces.display.counting("restoring the checkpoint", 1):
        restored = pieces.checkpoints.restore_newest(
            lambda facts: tree_of(_template(pieces, progress_of(facts)))
        )
    if restored is None:
        resume.check_nothing_lost(pieces.workdir, bool(pieces.config.teacher))
        return 0, _fresh(pieces)
    return progress_of(restored[1]).global_step, snapshot_of(*restored)


def _template(pieces: Pieces, progress: Progress) -> Snapshot:
    resume.check_progress(pieces.phases, progress, pieces.workdir)
    if not pieces.override:
        resume.check_same_data(
            pieces.source, progress, pieces.workdir, pieces.display.note
        )
    phase = progress.phase
    return recipes.make_template(pieces.recipe(phase), phase, pieces.mesh)


def _fresh(pieces: Pieces) -> Snapshot:
    config, recipe, mesh = pieces.config, pieces.recipe(0), pieces.mesh
    params = init_params(recipe.model, config.seed, mesh)
    teacher_params: Params = ()
    if config.teacher:
        teacher = pieces.given()
        theirs = given.load(config, teacher, param_template(teacher.model, mesh))
        if given.has_same_params(teacher.model, recipe.model):
            params = theirs
        if config.reparameterize:
            teacher_params = theirs
    state = init_state(params, recipe.optimizer, recipe.keeps_ema)
    return Snapshot(0, parallel.place(state, mesh, recipe.specs), teacher_params)


def show_facts(pieces: Pieces, global_step: int, snapshot: Snapshot) -> None:
    """Shows what the run does, and where it resumes."""
    model, note = pieces.models.training, pieces.display.note
    for line in fact_lines(pieces.config, pieces.workdir, model, pieces.source):
        note(line)
    if global_step:
        phase = pieces.phases[snapshot.phase]
        update = int(snapshot.state.step)
        note(f"resuming at update {update} of phase {phase.number} ({phase.title})")
    if line := tracing.progress(pieces.profile, global_step):
        note(line)


def open_journal(
    pieces: Pieces, global_step: int, wandb_run: WandbRun | None, stack: ExitStack
) -> Journal:
    """Opens the journal and records the start; the stack closes it."""
    journal = Journal(
        pieces.workdir,
        global_step,
        logsnr_bins.EDGES,
        jax.process_index() == 0,
        pieces.lock.check,
        wandb_run,
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


def _class_names(pieces: Pieces) -> list[str] | None:
    """Returns the names of the classes, by number; None for unconditional models."""
    conditional = pieces.config.net.num_classes
    return list(pieces.source.class_names) if conditional else None
