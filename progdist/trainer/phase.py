"""Work of a phase: its training, the model that it leaves, and the swap after it."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from progdist import checkpoint, data, parallel
from progdist.errors import NonFiniteError
from progdist.model import Params, param_template
from progdist.plan import Phase
from progdist.sampling import cards
from progdist.trainer import loop, recipes, tracing, utilisation
from progdist.trainer.build import Pieces
from progdist.trainer.phase_end import PhaseEnd
from progdist.trainer.state import (
    Snapshot,
    TrainState,
    facts_of,
    sampling_params,
    tree_of,
)
from progdist.trainer.step import TrainStep
from progdist.workdir import layout
from progdist.workdir.journal import Journal
from progdist.workdir.rows import MetricsRow


def train(
    pieces: Pieces, journal: Journal, phase: Phase, snapshot: Snapshot
) -> Snapshot:
    """Trains a phase to its last update."""
    config, teacher_params = pieces.config, snapshot.teacher_params
    pieces.display.start(phase, int(snapshot.state.step))
    recipe = pieces.recipe(phase.number)
    meter = utilisation.make_meter(
        recipe.model, recipe.teacher, phase, pieces.mesh, dtype=config.net.dtype
    )

    def save(step: int, state: TrainState, tally: loop.Tally) -> None:
        snapshot_now = Snapshot(phase.number, state, teacher_params, tally)
        global_step = phase.first_update + step
        pieces.lock.check()
        facts = facts_of(snapshot_now, global_step, pieces.source.fingerprint)
        with pieces.preemption.saving():
            pieces.checkpoints.save(global_step, tree_of(snapshot_now), facts)

    where, done = f"phase {phase.number} ({phase.title})", int(snapshot.state.step)
    try:
        with _traced(pieces, phase, done) as train_step:
            state = loop.run(
                train_step,
                snapshot.state,
                recipes.make_round(config.seed, phase, teacher_params, pieces.mesh),
                batches=_batches(pieces, phase, done),
                pace=loop.Pace(
                    phase.num_updates,
                    config.log_every,
                    config.save_every,
                    config.max_skipped,
                ),
                hooks=loop.Hooks(
                    functools.partial(_log, pieces, journal, phase, meter),
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


def _traced(
    pieces: Pieces, phase: Phase, done: int
) -> AbstractContextManager[TrainStep]:
    """Opens the phase's train step; process 0 may trace some of its updates."""
    first = phase.first_update + done + 1
    updates = pieces.profile if jax.process_index() == 0 else range(0)
    return tracing.traced(
        pieces.recipe(phase.number).train_step,
        range(updates.start, min(updates.stop, phase.end_update + 1)),
        first,
        pieces.workdir / layout.PROFILE,
        pieces.display.note,
    )


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
    pieces: Pieces,
    journal: Journal,
    phase: Phase,
    meter: utilisation.Meter,
    interval: loop.Interval,
) -> None:
    journal.metrics(
        MetricsRow(
            global_step=phase.first_update + interval.step,
            phase=phase.number,
            num_steps=phase.num_steps,
            **meter.read(interval.steps_per_second),
            **interval._asdict(),
        )
    )
    pieces.display.update(interval.step, interval.loss, interval.steps_per_second)


def begin_round(pieces: Pieces, snapshot: Snapshot) -> Snapshot:
    """Swaps student into teacher, with the shardings that the train step returns.

    Any other shardings would compile the step once more.
    """
    recipe = pieces.recipe(snapshot.phase + 1)
    begun = recipe.begin(snapshot)
    state = parallel.place(begun.state, pieces.mesh, recipe.specs)
    return begun._replace(state=state)


def finish(
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
    card = cards.make_card(pieces.config, phase, pieces.source) | _origin(pieces)
    with pieces.preemption.saving():
        checkpoint.save_model(path, params, card, pieces.mirror)
    if phase.number == 0:
        base = params
    else:
        template = param_template(pieces.models.training, pieces.mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
        base = jax.device_put(base_params(), shardings)
    phase_end.add(phase, params, pieces.phases[0], base)


def _origin(pieces: Pieces) -> cards.Card:
    """Returns origin and license of the given teacher, if any.

    The model of phase 0 keeps them, so that later phases do not need the teacher.
    """
    base = checkpoint.model_dir(pieces.workdir, 0, pieces.phases[0].num_steps)
    if not pieces.config.teacher:
        return {}
    if parallel.broadcast_from_zero(checkpoint.is_model(base)):
        return cards.origin_of(cards.read_card(base))
    source = pieces.given().source
    return cards.origin_of(source.card) if source else {}


def read_base_params(pieces: Pieces) -> Params:
    """Reads the model of phase 0 into host memory, not onto a device."""
    path = checkpoint.model_dir(pieces.workdir, 0, pieces.phases[0].num_steps)
    template = param_template(pieces.models.training, pieces.mesh)
    return jax.device_get(checkpoint.load_model(path, template))
