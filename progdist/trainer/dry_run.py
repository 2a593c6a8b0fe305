"""Plan of a run, in words, before it starts."""

import functools
from collections.abc import Iterator
from pathlib import Path

from progdist import checkpoint, parallel, preflight
from progdist.config import Config, Data, plan_of
from progdist.data import Source, survey
from progdist.errors import InputError, shown
from progdist.evaluate.specs import passes_of_phase
from progdist.model import Model
from progdist.plan import Phase
from progdist.trainer import given, resume, start, utilisation
from progdist.trainer.summary import (
    fact_lines,
    model_bytes,
    size_text,
    snapshot_bytes,
)
from progdist.workdir import layout
from progdist.workdir.copies import local


def show(
    config: Config, workdir: Path, override: bool, may_import: bool = False
) -> None:
    """Prints the data, network, devices, phases and output of a run.

    Runs the checks of a start, and prints the plan even if one fails. Writes nothing.

    Args:
      config: the configuration.
      workdir: directory of the run, which need not exist.
      override: whether the configuration may differ from that of the first start.
      may_import: whether a teacher that is a function may be imported.

    Raises:
      InputError: as `run` and `start.check` do.
    """
    model = preflight.make_model(config)
    source, fault = None, None
    try:
        if workdir.exists() and not workdir.is_dir():
            raise InputError(f"--workdir={workdir}: is not a directory")
        opened = functools.partial(given.open_given, config, may_import)
        source = start.check(config, workdir, opened)
        start.check_disk(config, workdir)
        if workdir.exists() and not override:
            resume.check_same(config, workdir)
            resume.check_same_numerics(workdir)
    except InputError as error:
        fault = error
    parallel.on_process_zero(
        lambda: print("\n".join(_lines(config, workdir, model, source)), flush=True)
    )
    if fault:
        raise fault


def _lines(
    config: Config, workdir: Path, model: Model, source: Source | None
) -> Iterator[str]:
    """Yields the facts of a run, then its phases and its output."""
    if config.data.name == "folder" and source:
        yield f"{'folder':11} {_folder(config.data)}"
    yield from fact_lines(config, _workdir(workdir), model, source)
    yield ""
    yield from _phases(config, plan_of(config), model)
    yield ""
    yield from _output(config, model)


def evaluation_passes(config: Config, phases: tuple[Phase, ...]) -> int:
    """Returns the network passes, of one image each, of a run's evaluations."""
    return sum(passes_of_phase(config.evaluation, p, phases[0]) for p in phases)


def training_passes(phases: tuple[Phase, ...]) -> int:
    """Returns the network passes, of one image each, of a run's updates."""
    return sum(p.num_updates * p.batch_size * p.passes for p in phases)


def _folder(settings: Data) -> str:
    path = local(settings.dir).absolute()
    found = survey.look(path, settings.split, settings.labels)
    return survey.describe(found, settings.image_shape)


def _workdir(workdir: Path) -> str:
    steps = checkpoint.snapshot_steps(workdir / layout.CHECKPOINTS)
    name = shown(str(workdir))
    if steps:
        return f"{name}, resumes at update {max(steps):,}"
    return f"{name}, " + ("exists" if workdir.exists() else "will be created")


def _phases(config: Config, phases: tuple[Phase, ...], model: Model) -> Iterator[str]:
    """Yields a table of the phases, with their shares of the network passes."""
    training, sampling = training_passes(phases), evaluation_passes(config, phases)
    whole = max(training + sampling, 1)
    yield "phase            N      updates    batch   network passes"
    for phase in phases:
        name = phase.title if phase.number == 0 else f"round {phase.number}"
        passes = phase.num_updates * phase.batch_size * phase.passes
        yield (
            f"{name:14} {phase.num_steps:5,} {phase.num_updates:11,} "
            f"{phase.batch_size:8,}   {passes / whole:6.1%}"
        )
    yield f"evaluation {sampling / whole:.1%}"
    flops = (training + sampling) * utilisation.forward_flops(model)
    yield f"in all      {flops:.3g} model FLOPs"


def _output(config: Config, model: Model) -> Iterator[str]:
    """Yields what the run will write, and how large it will be."""
    number, snapshot = len(plan_of(config)), size_text(snapshot_bytes(config, model))
    yield f"writes      {config.keep_checkpoints} checkpoints of {snapshot}"
    yield f"            {number} models of {size_text(model_bytes(model))}"
    if config.evaluation.enabled:
        yield "            samples, metrics, figures and report.html"
