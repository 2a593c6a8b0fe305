"""The pieces of a run, built once from its configuration."""

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
from progdist.model import Model
from progdist.plan import Kind, Phase
from progdist.trainer.display import Display
from progdist.trainer.preemption import Interrupt, Preemption, Watchdog
from progdist.trainer.recipes import Recipe, make_recipes
from progdist.workdir import layout
from progdist.workdir.lock import Lock


class Pieces(NamedTuple):
    """The pieces of a run."""

    config: Config
    workdir: Path
    mesh: Mesh
    source: data.Source
    extractors: list[Extractor]
    phases: tuple[Phase, ...]
    recipes: dict[Kind, Recipe]
    checkpoints: Checkpoints
    display: Display
    preemption: Preemption
    lock: Lock
    override: bool
    profile: range

    def recipe(self, phase: int) -> Recipe:
        """Returns the recipe of phase `number`."""
        return self.recipes[self.phases[phase].kind]


def build(
    config: Config,
    workdir: Path,
    *,
    models: dict[Kind, Model],
    source: data.Source,
    extractors: list[Extractor],
    interrupt: Interrupt,
    lock: Lock,
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
    checkpoints = Checkpoints(
        workdir / layout.CHECKPOINTS,
        config.keep_checkpoints,
        display.note,
    )
    stack.callback(checkpoints.close)
    return Pieces(
        config=config,
        workdir=workdir,
        mesh=mesh,
        source=source,
        extractors=extractors,
        phases=phases,
        recipes=make_recipes(config, models, mesh),
        checkpoints=checkpoints,
        display=display,
        preemption=Preemption(interrupt, watchdog, mesh),
        lock=lock,
        override=override,
        profile=profile,
    )
