"""A run's pieces, put together once from its configuration."""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from progdist import data, parallel
from progdist.checkpoint import Checkpoints
from progdist.config import Config
from progdist.model import Model, make_model
from progdist.plan import Phase
from progdist.trainer import recipes as trainer
from progdist.trainer.display import Display, Work
from progdist.trainer.preemption import Interrupt, Pulse, Watchdog
from progdist.trainer.recipes import Trainers

# Network passes of an update without a teacher, its backward pass counted as two.
_UPDATE_COST = 3.0


class Parts(NamedTuple):
    """A run's pieces, put together once."""

    config: Config
    workdir: Path
    mesh: Mesh
    source: data.Source
    model: Model
    phases: tuple[Phase, ...]
    trainers: Trainers
    checkpoints: Checkpoints
    display: Display
    pulse: Pulse
    override: bool


def build(
    config: Config,
    workdir: Path,
    source: data.Source,
    interrupt: Interrupt,
    override: bool,
    stack: ExitStack,
) -> Parts:
    """Puts a run together; what has to be closed in the end goes onto the stack."""
    mesh, first = parallel.make_mesh(), jax.process_index() == 0
    phases = trainer.make_plan(config)
    display = Display(_work(config, phases), first)
    stack.callback(display.close)
    watchdog = stack.enter_context(Watchdog(float(config.stuck_seconds)))
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        config.keep_checkpoints,
        display.note,
    )
    stack.callback(checkpoints.close)
    return Parts(
        config=config,
        workdir=workdir,
        mesh=mesh,
        source=source,
        model=make_model(config),
        phases=phases,
        trainers=trainer.make_trainers(config, mesh),
        checkpoints=checkpoints,
        display=display,
        pulse=Pulse(interrupt, watchdog, mesh),
        override=override,
    )


def _work(config: Config, phases: tuple[Phase, ...]) -> list[Work]:
    """Returns what lies ahead; an update of a round also costs the teacher's calls."""
    distill_cost = _UPDATE_COST + config.distill.ratio
    return [
        Work(phase.num_updates, distill_cost if phase.number else _UPDATE_COST)
        for phase in phases
    ]
