"""Measures a run's models, drawn in several ways, by several distances.

Every way of drawing is gone through once, for all features together, and its rows are
appended to eval.jsonl. Rows that are there already are not computed again.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from progdist import checkpoint, parallel
from progdist.data.progress import counting
from progdist.diffusion import solvers
from progdist.diffusion.settings import SolverName
from progdist.evaluate import evaluator
from progdist.evaluate.evaluator import Drawing, Gauge, Identified
from progdist.model import param_template
from progdist.workdir import journal
from progdist.workdir.rows import EvalRow, read_typed


def plan(
    finished: dict[int, int],
    rounds: Sequence[int],
    num_steps: Sequence[int],
    names: Sequence[SolverName],
    gammas: Sequence[float],
) -> list[Drawing]:
    """Returns the ways to draw.

    Args:
      finished: the steps of each finished phase.
      rounds: phases; none given, each N is drawn by the round that was made for it.
      num_steps: numbers of network calls; none given, each model's own.
      names: of samplers.
      gammas: of the ancestral sampler.

    Raises:
      ValueError: if a phase is not finished, a round is missing, or an N is not a
        multiple of a sampler's calls a step.
    """
    there = ", ".join(f"{p} (N = {n})" for p, n in finished.items()) or "none yet"
    for phase in rounds:
        if phase not in finished:
            raise ValueError(f"--round={phase}: is not finished; there are {there}")
    of_steps = {n: p for p, n in finished.items()}
    for n in num_steps if not rounds else ():
        if n not in of_steps:
            raise ValueError(
                f"--num_steps={n}: no round has so many; there are {there}, and "
                "--round=0 draws with the teacher in any number of steps"
            )
    if rounds:
        pairs = [(p, n) for p in rounds for n in num_steps or [finished[p]]]
    else:
        pairs = [(of_steps[n], n) for n in num_steps or finished.values()]
    for name, (_, n) in itertools.product(names, pairs):
        solvers.check_calls(name, n)
    return [
        Drawing(phase, finished[phase], n, name, gamma)
        for phase, n in pairs
        for name in names
        for gamma in (gammas if name == "ancestral" else [None])
    ]


def run(
    gauge: Gauge,
    workdir: Path,
    drawings: Sequence[Drawing],
    note: Callable[[str], None],
) -> None:
    """Measures every drawing; process 0 writes the rows.

    Args:
      gauge: what to measure with.
      workdir: of the run; its models are read, one at a time.
      drawings: those of a phase one after another.
      note: shows a line to the user.
    """
    path = workdir / "eval.jsonl"
    parallel.on_process_zero(lambda: journal.mend(path))
    template = param_template(gauge.model, gauge.mesh)
    loaded: dict[int, Identified] = {}
    for one in drawings:
        if one.phase not in loaded:
            place = checkpoint.model_dir(workdir, one.phase, one.trained_steps)
            params = checkpoint.load_model(place, template)
            loaded = {one.phase: evaluator.identified(params)}
        model = loaded[one.phase]
        missing = evaluator.missing(gauge, one, model, read_typed(EvalRow, path))
        if not missing:
            note(f"{one}: is there already")
            continue
        with counting(str(one), gauge.samples.num) as advance:
            rows = evaluator.measure(
                gauge, one, model, missing, lambda images: advance(len(images))
            )
        for row in rows:
            journal.append(path, row.to_json())
            note(_line(one, row))


def _line(one: Drawing, row: EvalRow) -> str:
    text = f"{one!s:40} {row.metric} {row.value:.5g}"
    return f"{text} (real images: {row.floor.value:.4g})" if row.floor else text
