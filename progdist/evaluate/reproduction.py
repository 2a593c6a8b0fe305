"""Evaluation of the paper's CIFAR-10 models by its protocol, beside its values."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from progdist import checkpoint, preflight
from progdist.checkpoint import CheckpointError
from progdist.config import Config, Evaluation, plan_of, to_json
from progdist.data import cifar10
from progdist.data.download import Remote
from progdist.evaluate import evaluator, released, run
from progdist.evaluate.features.download import (
    INCEPTION,
    inception_file,
    inception_path,
)
from progdist.evaluate.published import FID, NUM_SAMPLES, PROTOCOL, Curve
from progdist.evaluate.specs import SamplerSpec
from progdist.plan import Phase
from progdist.workdir import files, layout
from progdist.workdir.lock import Lock
from progdist.workdir.rows import EvalRow, read_typed

TABLE = "reproduction.md"


class Request(NamedTuple):
    """Models and samplers to evaluate.

    Attributes:
      curves: curves of the paper's figure.
      num_steps: numbers of network calls.
      gammas: noise levels of the ancestral sampler.
      folder: folder of the released checkpoints; see `released.find`.
    """

    curves: Sequence[Curve]
    num_steps: Sequence[int]
    gammas: Sequence[float]
    folder: str


def reproduce(
    config: Config,
    workdir: Path,
    request: Request,
    measuring: run.Measuring = run.UNINTERRUPTED,
) -> str:
    """Evaluates the models of a workdir; returns the table, and writes it there.

    The models are the released ones, unless a run has trained others in the workdir.

    Raises:
      InputError: if something cannot be downloaded, or is not what it should be.
    """
    settings = config.evaluation
    vars(settings).update(PROTOCOL, num_samples=settings.num_samples)
    counts = {"config.evaluation.num_samples": settings.num_samples}
    evaluator.check(settings, counts, "config.evaluation.")
    if not _is_trained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        with Lock(workdir):
            _save_released(config, workdir, request)
    specs = specs_of(request, checkpoint.finished_models(workdir))
    if not specs:
        raise CheckpointError(f"{workdir}: has no model to evaluate")
    run.evaluate_models(config, workdir, specs, measuring=measuring)
    table = comparison(read_typed(EvalRow, workdir / layout.EVALUATIONS), settings)
    files.write_bytes(workdir / TABLE, table.encode())
    return table


def dry_run(config: Config, workdir: Path, request: Request) -> Iterator[str]:
    """Yields the downloads and the network passes of `reproduce`, a line for each."""
    missing = {} if _is_trained(workdir) else _missing(config, workdir, request)
    downloads = [place for place in missing.values() if isinstance(place, Remote)]
    if not config.data.dir and not cifar10.archive_path().exists():
        downloads.append(cifar10.ARCHIVE)
    if not config.evaluation.inception_weights and not inception_path().exists():
        downloads.append(INCEPTION)
    for remote in downloads:
        yield f"download {remote.size / 1e6:6,.0f} MB  {remote.url}"
    models = checkpoint.finished_models(workdir)
    models |= {phase.number: phase.num_steps for phase in missing}
    for spec in specs_of(request, models):
        passes = config.evaluation.num_samples * spec.num_steps
        yield f"evaluate {spec!s:34} {passes:13,} network passes"


def _is_trained(workdir: Path) -> bool:
    """Whether the models of a workdir are those of a training run."""
    return (workdir / layout.CONFIG).exists() and not (workdir / released.SUMS).exists()


def _missing(
    config: Config, workdir: Path, request: Request
) -> dict[Phase, released.Place]:
    """Returns the requested checkpoints that are not models of the workdir yet."""
    present = checkpoint.finished_models(workdir)
    needs_original = set(request.curves) != {"distilled"}
    students = request.num_steps if "distilled" in request.curves else ()
    phases = [
        phase
        for phase in plan_of(config)
        if phase.number not in present
        and (phase.num_steps in students if phase.number else needs_original)
    ]
    missing = released.find(request.folder, phases) if phases else {}
    if not missing and not present:
        raise CheckpointError(f"{request.folder}: holds no checkpoint of these models")
    return missing


def _save_released(config: Config, workdir: Path, request: Request) -> None:
    source = preflight.open_data(config.data)
    inception_file(config.evaluation.inception_weights)
    for phase, place in _missing(config, workdir, request).items():
        released.save(phase, place, workdir, config, source)
    files.write_bytes(workdir / layout.CONFIG, to_json(config).encode())


def specs_of(request: Request, models: Mapping[int, int]) -> list[SamplerSpec]:
    """Returns the ways to sample the models, those of few network calls first.

    Args:
      request: the curves.
      models: number of steps of each model by its phase; 0 is the original model.
    """
    teacher = [(0, models[0], n) for n in request.num_steps if 0 in models]
    students = [(k, n, n) for n in request.num_steps for k in models if models[k] == n]
    specs = {
        "distilled": [SamplerSpec(*model, "ddim") for model in students if model[0]],
        "ddim": [SamplerSpec(*model, "ddim") for model in teacher],
        "ancestral": [
            SamplerSpec(*model, "ancestral", gamma)
            for model in teacher
            for gamma in request.gammas
        ],
    }
    return [spec for curve in specs if curve in request.curves for spec in specs[curve]]


def comparison(rows: Sequence[EvalRow], settings: Evaluation) -> str:
    """Returns the paper's values and those of the rows as a table in Markdown.

    Args:
      rows: rows of eval.jsonl.
      settings: the evaluation; rows of other numbers of samples or seeds do not count.
    """
    expected = "FID-tf1", settings.num_samples, settings.seed
    rows = [row for row in rows if (row.metric, row.num_samples, row.seed) == expected]
    points = {_point(row) for row in rows}
    numbers = sorted({n for _, n in FID.keys() | points})
    lines = [
        _line(curve, n, [row for row in rows if _point(row) == (curve, n)])
        for curve in get_args(Curve)
        for n in numbers
        if curve in dict(points)
    ]
    head = (
        "| model | N | paper | here | difference |\n| :-- | --: | --: | --: | --: |\n"
    )
    return f"{head}{''.join(lines)}\n{_notes(settings)}\n"


def _point(row: EvalRow) -> tuple[str, int]:
    """Returns the point of the figure that a row measures."""
    if row.role == "teacher":
        return row.sampler, row.num_steps
    is_own = (row.sampler, row.num_steps) == ("ddim", row.trained_steps)
    return "distilled" if is_own else "", row.num_steps


def _line(curve: Curve, n: int, rows: Sequence[EvalRow]) -> str:
    """Returns the line of a point, with the best of its rows; "" if it is unknown."""
    paper, here, difference = FID.get((curve, n), "–"), "–", "–"
    if rows:
        best = min(rows, key=lambda row: row.value)
        gamma = "" if best.gamma is None else f" (gamma {best.gamma:g})"
        here = f"{best.value:.2f}{gamma}"
        if paper[0] not in "–>":
            difference = f"{best.value - float(paper.lstrip('≈')):+.2f}"
    name = curve if curve == "distilled" else f"original, {curve}"
    is_known = rows or paper != "–"
    return f"| {name} | {n} | {paper} | {here} | {difference} |\n" if is_known else ""


def _notes(settings: Evaluation) -> str:
    count, seed = settings.num_samples, settings.seed
    fewer = f" The paper takes {NUM_SAMPLES:,}; the FID of fewer is larger."
    return (
        f"FID of {count:,} samples (seed {seed}) against the training images, with the "
        "resizing of TensorFlow 1. N counts network calls. ≈ is read off the paper's "
        "figure, to 0.02." + fewer * (count < NUM_SAMPLES)
    )
