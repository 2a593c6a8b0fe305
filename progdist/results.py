"""What a finished phase leaves: images, distances to the data, figures, a table."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from progdist import checkpoint, data, drawing, metrics, parallel, report
from progdist.config import Evaluation
from progdist.journal import Journal
from progdist.model import Model, make_sampler, param_template
from progdist.phases import Phase
from progdist.state import Params

# The last rounds are the ones whose paths can be seen whole, as in the paper's figure.
_MOST_STEPS_DRAWN, _PATHS_DRAWN = 4, 3


class _Identified(NamedTuple):
    """A model's parameters, and the digest that tells its rows from another's."""

    params: Params
    digest: str


class Results:
    """Measures and draws the models of a run; what is there already is not redone."""

    def __init__(
        self,
        workdir: Path,
        model: Model,
        mesh: Mesh,
        evaluation: Evaluation,
        source: data.Source,
        journal: Journal,
        note: Callable,
        check: Callable[[], None],
    ) -> None:
        """Takes the pieces of the run.

        `note` shows something to the user; `check`, called with each batch of samples,
        may raise to end the run there.
        """
        self._workdir, self._model, self._mesh = workdir, model, mesh
        self._evaluation, self._source = evaluation, source
        self._journal, self._note, self._check = journal, note, check
        self._first = jax.process_index() == 0
        self._metric = metrics.metric_name(model.image_shape)
        # Compiled on first use, once for all numbers of steps.
        self._sampler = functools.cache(
            lambda name: make_sampler(model, mesh, name, evaluation.gamma)
        )

    @functools.cached_property
    def _data_moments(self) -> metrics.Moments:
        return metrics.source_moments(self._source)

    def add(self, phase: Phase, params: Params, teacher_params: Params) -> None:
        """Measures a phase's model and the undistilled teacher at its N, and draws."""
        kind, teacher = f"phase_{phase.number:02d}", _identified(teacher_params)
        if phase.number:
            self._measure(phase, "student", "ddim", _identified(params), kind)
            kind = f"baseline_{phase.number:02d}"
        self._measure(phase, "teacher", "ddim", teacher, kind)
        self._measure(phase, "teacher", "ancestral", teacher)
        if self._first:
            report.write_samples(self._workdir)

    def conclude(self, phases: Sequence[Phase]) -> None:
        """Writes the figures of the whole run and shows its table."""
        self._save_paths(phases)
        if self._first:
            report.write_quality(self._workdir)
            report.write_comparison(self._workdir)
            report.write_curves(self._workdir)
            report.write_trajectories(self._workdir)
            self._note(report.closing_table(self._workdir))
            self._note(f"figures: {self._workdir / 'figures'}")
            self._journal.end("done")
            self._note(f"report: {report.write_page([self._workdir])}")

    def _measure(
        self,
        phase: Phase,
        role: str,
        sampler: drawing.SamplerName,
        model: _Identified,
        samples: str = "",
    ) -> None:
        """Adds a row to eval.jsonl, after the first images as samples/<samples>.npz."""
        row = {
            "phase": phase.number,
            "role": role,
            "sampler": sampler,
            "num_steps": phase.num_steps,
            "metric": self._metric,
            "params": model.digest,
        }
        done = self._journal.evaluations()
        if parallel.first_says(any(_says(old, row) for old in done)):
            return
        images = self._draw(self._sampler(sampler), model.params, phase.num_steps)
        settings = self._evaluation
        num_first = -(-settings.grid_images // settings.batch_size)
        first = list(itertools.islice(images, num_first))
        moments = metrics.pixel_moments(itertools.chain(first, images))
        if samples and self._first:
            drawn = np.concatenate(first)[: settings.grid_images]
            report.save_npz(
                self._workdir / "samples" / f"{samples}.npz",
                images=drawn,
                num_steps=np.array(phase.num_steps),
                phase=np.array(phase.number),
            )
            grid = report.square_grid(drawn)
            self._journal.images(f"samples/{role}", grid, phase.end_update)
        value = metrics.frechet_distance(self._data_moments, moments)
        row |= {"value": value, "num_samples": settings.num_samples}
        self._journal.evaluation(row, phase.end_update)
        self._note(
            f"  {role} {sampler:9} N = {phase.num_steps:<5} {self._metric} {value:.4g}"
        )

    def _draw(
        self, sampler: drawing.Sampler, params: Params, num_steps: int
    ) -> Iterator[np.ndarray]:
        settings = self._evaluation
        batches = drawing.draw_images(
            sampler,
            params,
            settings.seed,
            settings.num_samples,
            num_steps,
            settings.batch_size,
            self._mesh,
        )
        for images in batches:
            self._check()
            yield images

    def _save_paths(self, phases: Sequence[Phase]) -> None:
        """Writes the states of a few samples on their way, for the last students."""
        path = self._workdir / "samples" / "trajectories.npz"
        few = [p for p in phases[1:] if p.num_steps <= _MOST_STEPS_DRAWN]
        models = {
            phase: checkpoint.model_dir(self._workdir, phase.number, phase.num_steps)
            for phase in few
        }
        if not few or parallel.first_says(_is_newer(path, models.values())):
            return
        template = param_template(self._model, self._mesh)
        key = jax.random.key(self._evaluation.seed)
        indices = jnp.arange(_PATHS_DRAWN)
        z_1 = drawing.image_noise(key, indices, self._model.image_shape)
        classes = self._model.net.num_classes
        states = {}
        for phase, model in models.items():
            states[f"N{phase.num_steps}"] = drawing.draw_trajectory(
                self._model.net,
                checkpoint.load_model(model, template),
                self._model.output,
                self._model.schedule,
                z_1,
                phase.num_steps,
                indices % classes if classes else None,
            )
        if self._first:
            report.save_npz(path, **states)


def _identified(params: Params) -> _Identified:
    return _Identified(params, checkpoint.fingerprint_of(params)[:16])


def _says(old: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether it is this run's row; `progdist.evaluate` has written its `features`."""
    return "features" not in old and row.items() <= old.items()


def _is_newer(path: Path, others: Iterable[Path]) -> bool:
    """Whether the file is there, and was written after the others."""
    written = [other.stat().st_mtime_ns for other in others]
    return path.exists() and path.stat().st_mtime_ns >= max(written)
