"""The pieces of a run, built once from its configuration."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from progdist import data, parallel
from progdist.checkpoint import Checkpoints
from progdist.config import Config, plan_of
from progdist.evaluate.extraction import Extractor
from progdist.evaluate.specs import passes_of_phase
from progdist.plan import Kind, Phase
from progdist.preflight import Models
from progdist.trainer.display import Display
from progdist.trainer.given import Given
from progdist.trainer.preemption import Interrupt, Preemption, Watchdog
from progdist.trainer.recipes import Recipe, make_recipe
from progdist.workdir import layout
from progdist.workdir.lock import Lock
from progdist.workdir.mirror import Mirror


class Pieces(NamedTuple):
    """The pieces of a run."""

    config: Config
    workdir: Path
    mesh: Mesh
    source: data.Source
    extractors: list[Extractor]
    phases: tuple[Phase, ...]
    models: Models
    given: Callable[[], Given]
    make_recipe: Callable[[Kind], Recipe]
    checkpoints: Checkpoints
    display: Display
    preemption: Preemption
    lock: Lock | Mirror
    override: bool
    profile: range

    @property
    def mirror(self) -> Mirror | None:
        """The copy of the workdir, if that lies in a bucket."""
        return self.lock if isinstance(self.lock, Mirror) else None

    def recipe(self, phase: int) -> Recipe:
        """Returns the recipe of phase `number`; it may open the given teacher."""
        return self.make_recipe(self.phases[phase].kind)


def build(
    config: Config,
    workdir: Path,
    *,
    models: Models,
    given: Callable[[], Given],
    source: data.Source,
    extractors: list[Extractor],
    interrupt: Interrupt,
    lock: Lock | Mirror,
    override: bool,
    profile: range,
    stack: ExitStack,
) -> Pieces:
    """Builds the pieces of a run; the stack closes those that need closing."""
    mesh, phases = parallel.make_mesh(), plan_of(config)
    display = Display(
        phases,
        jax.process_index() == 0,
        sampling_passes=lambda phase: passes_of_phase(
            config.evaluation, phase, phases[0]
        ),
    )
    stack.callback(display.close)
    watchdog = stack.enter_context(Watchdog(float(config.stuck_seconds)))

    def make(kind: Kind) -> Recipe:
        teacher = given().model if kind == "reparameterize" else None
        return make_recipe(kind, config, models, teacher, mesh)

    checkpoints = Checkpoints(
        workdir / layout.CHECKPOINTS,
        config.keep_checkpoints,
        display.note,
        lock if isinstance(lock, Mirror) else None,
    )
    stack.callback(checkpoints.close)
    return Pieces(
        config=config,
        workdir=workdir,
        mesh=mesh,
        source=source,
        extractors=extractors,
        phases=phases,
        models=models,
        given=given,
        make_recipe=functools.cache(make),
        checkpoints=checkpoints,
        display=display,
        preemption=Preemption(interrupt, watchdog, mesh),
        lock=lock,
        override=override,
        profile=profile,
    )
