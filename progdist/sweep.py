"""Measures a run's models, drawn in several ways, by several distances.

Every way of drawing is gone through once, for all features together, and its rows are
appended to eval.jsonl. Rows that are there already are not computed again.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from progdist import (
    checkpoint,
    drawing,
    extraction,
    journal,
    metrics,
    parallel,
    references,
    report,
)
from progdist.data.progress import counting
from progdist.extraction import Extractor
from progdist.model import Model, param_template
from progdist.references import Reference
from progdist.state import Params

Row = dict[str, Any]
_Number = tuple[Extractor, metrics.Metric]


class Drawing(NamedTuple):
    """One way to draw: the model of a phase, its own steps, and how it is sampled."""

    phase: int
    trained_steps: int
    num_steps: int
    sampler: drawing.SamplerName
    gamma: float | None  # of the ancestral sampler alone

    def facts(self) -> Row:
        """Returns how a row says it."""
        row = {
            "phase": self.phase,
            "role": "student" if self.phase else "teacher",
            "sampler": self.sampler,
            "num_steps": self.num_steps,
            "trained_steps": self.trained_steps,
        }
        return row if self.gamma is None else row | {"gamma": self.gamma}

    def __str__(self) -> str:
        """As a line of output shows it."""
        row = self.facts()
        gamma = "" if self.gamma is None else f" gamma {self.gamma:g}"
        return f"{row['role']} {self.sampler}{gamma} N = {self.num_steps}"


class Samples(NamedTuple):
    """How many images, from which seed, how many at a time."""

    num: int
    seed: int
    batch_size: int


class Sweep(NamedTuple):
    """What is measured, and with what."""

    workdir: Path
    model: Model
    mesh: Mesh
    samples: Samples
    extractors: Sequence[Extractor]
    wanted: Sequence[metrics.Metric]
    reference: Reference
    real: Callable[[Extractor], metrics.Statistics | None]
    make_sampler: Callable[[drawing.SamplerName, float], drawing.Sampler]
    note: Callable[[str], None]


def plan(
    finished: dict[int, int],
    rounds: Sequence[int],
    num_steps: Sequence[int],
    names: Sequence[drawing.SamplerName],
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
    _check_calls([n for _, n in pairs], names)
    return [
        Drawing(phase, finished[phase], n, name, gamma)
        for phase, n in pairs
        for name in names
        for gamma in (gammas if name == "ancestral" else [None])
    ]


def run(sweep: Sweep, drawings: Sequence[Drawing]) -> None:
    """Measures every drawing; process 0 writes the rows."""
    path = sweep.workdir / "eval.jsonl"
    parallel.first_does(lambda: journal.mend(path))
    numbers = list(itertools.product(sweep.extractors, sweep.wanted))
    loaded: dict[int, tuple[Params, str]] = {}
    for one in drawings:
        if one.phase not in loaded:
            loaded = {one.phase: _load(sweep, one)}  # one model at a time
        params, digest = loaded[one.phase]
        done = report.read_rows(path)
        missing = [n for n in numbers if not _is_done(sweep, one, digest, n, done)]
        if missing:
            _measure(sweep, one, params, digest, missing)
        else:
            sweep.note(f"{one}: is there already")


def _check_calls(
    num_steps: Sequence[int], names: Sequence[drawing.SamplerName]
) -> None:
    for name in names:
        calls = drawing.calls_a_step(name)
        for n in num_steps:
            if n % calls:
                raise ValueError(
                    f"--sampler={name}: makes {calls} network calls a step, and N = "
                    f"{n} is not a multiple of it"
                )


def _load(sweep: Sweep, one: Drawing) -> tuple[Params, str]:
    path = checkpoint.model_dir(sweep.workdir, one.phase, one.trained_steps)
    params = checkpoint.load_model(path, param_template(sweep.model, sweep.mesh))
    return params, checkpoint.fingerprint_of(params)[:16]


def _facts(sweep: Sweep, one: Drawing, digest: str, extractor: Extractor) -> Row:
    """All that a row's value depends on."""
    reference = sweep.reference
    return one.facts() | {
        "params": digest,
        "num_samples": sweep.samples.num,
        "seed": sweep.samples.seed,
        "features": extractor.label,
        "weights": extractor.digest[:16],
        "reference": {
            "data": reference.name,
            "split": reference.split,
            "count": reference.num_examples,
            "content": reference.content[:16],
        },
    }


def _is_done(
    sweep: Sweep, one: Drawing, digest: str, number: _Number, rows: list[Row]
) -> bool:
    """What process 0 sees; the others might see its file a moment later."""
    extractor, metric = number
    facts = _facts(sweep, one, digest, extractor)
    here = all(
        any((facts | {"metric": name}).items() <= row.items() for row in rows)
        for name in metrics.names(metric, extractor.label)
    )
    return parallel.first_says(here)


def _measure(
    sweep: Sweep,
    one: Drawing,
    params: Params,
    digest: str,
    missing: Sequence[_Number],
) -> None:
    extractors = list({e.label: e for e, _ in missing}.values())
    images = _draw(sweep, one, params)
    found = extraction.collect(extractors, images, sweep.samples.num)
    samples = dict(zip([e.label for e in extractors], found, strict=True))
    for extractor, metric in missing:
        real = sweep.real(extractor)
        floors = references.floor(sweep.reference, extractor, metric, sweep.samples.num)
        if jax.process_index() or real is None:
            continue
        ours = samples[extractor.label]
        for name, number in metrics.measure(
            metric, extractor.label, ours, real
        ).items():
            row = _facts(sweep, one, digest, extractor) | {"metric": name, **number}
            row["floor"] = floors[name]
            journal.append(sweep.workdir / "eval.jsonl", row)
            sweep.note(_line(one, name, row))


def _draw(sweep: Sweep, one: Drawing, params: Params) -> Iterator[extraction.Part]:
    """Yields this process's rows of every batch."""
    num, seed, batch_size = sweep.samples
    sampler = sweep.make_sampler(one.sampler, one.gamma or 0.0)
    batches = drawing.draw_images(
        sampler, params, seed, num, one.num_steps, batch_size, sweep.mesh
    )
    rows, first = parallel.local_rows(batch_size), 0
    with counting(str(one), num) as advance:
        for images in batches:
            numbers = range(first, first + len(images))[rows]
            yield np.asarray(numbers, int), images[rows]
            first += len(images)
            advance(len(images))


def _line(one: Drawing, name: str, row: Row) -> str:
    floor = row["floor"]
    return (
        f"{one!s:40} {name} {row['value']:.5g} (real against real: "
        f"{floor['value']:.4g} of {floor['count']:,})"
    )
