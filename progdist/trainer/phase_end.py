"""End of a phase: samples, metrics and figures of its model."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from progdist import checkpoint, parallel, report
from progdist.config import Evaluation
from progdist.evaluate import neighbours
from progdist.evaluate.evaluator import Evaluator, Result, line
from progdist.evaluate.specs import specs_of_phase
from progdist.model import Model, Params, param_template
from progdist.plan import Phase
from progdist.sampling import cards
from progdist.sampling.draw import draw_trajectory, labels_of
from progdist.trainer import conclusion
from progdist.trainer.display import Display
from progdist.workdir import arrays, files, layout
from progdist.workdir.journal import Journal

# Only the last rounds have few enough steps to show, as in the paper's figure.
_MAX_STEPS_SHOWN, _NUM_PATHS = 4, 3


class PhaseEnd:
    """Evaluates the models of a run and draws its figures, each once."""

    def __init__(
        self,
        workdir: Path,
        model: Model,
        settings: Evaluation,
        evaluator: Evaluator | None,
        journal: Journal,
        display: Display,
    ) -> None:
        """Takes the pieces of the run.

        Without an evaluator the models are neither sampled nor evaluated.
        """
        self._workdir, self._model = workdir, model
        self._settings, self._evaluator = settings, evaluator
        self._journal, self._display = journal, display
        self._first = jax.process_index() == 0

    def add(
        self, phase: Phase, params: Params, teacher: Phase, teacher_params: Params
    ) -> None:
        """Evaluates a phase's model, and the undistilled teacher in as many steps."""
        evaluator = self._evaluator
        if not evaluator:
            return
        rows = self._journal.evaluations()
        specs = specs_of_phase(self._settings, phase, teacher)
        student = [spec for spec in specs if spec.phase]
        baselines = [spec for spec in specs if not spec.phase]
        evaluate = functools.partial(evaluator.evaluate, self._model)
        self._keep(phase, evaluate(params, student, rows))
        self._keep(phase, evaluate(teacher_params, baselines, rows))
        if self._first:
            self._journal.check()
            self._add_distances([phase, teacher])
            report.write_samples(self._workdir)
            report.write_grids(self._workdir)

    def conclude(self, phases: Sequence[Phase]) -> None:
        """Draws the whole run and prints its table."""
        with self._display.counting("drawing the figures", 1):
            if self._evaluator:
                self._save_paths(phases, self._evaluator.mesh)
                neighbours.write_nearest(self._workdir, self._evaluator.reference)
            if self._first:
                self._journal.check()
                self._add_distances(phases)
                report.write_figures(self._workdir)
                self._journal.end("done")
                report.write_page([self._workdir])
        if self._first:
            conclusion.show(self._workdir, phases[-1].num_steps, self._display)

    def _keep(self, phase: Phase, results: Iterable[Result]) -> None:
        """Appends rows to eval.jsonl, after saving DDIM samples to samples/."""
        for result in results:
            if self._first and result.rows and result.spec.sampler == "ddim":
                self._save_samples(phase, result)
            for row in result.rows:
                self._journal.evaluation(row, phase.end_update)
                self._display.result(line(result.spec, row))

    def _add_distances(self, phases: Sequence[Phase]) -> None:
        """Adds the rows that measure each model to its card."""
        rows = self._journal.evaluations()
        for phase in phases:
            model = checkpoint.model_dir(self._workdir, phase.number, phase.num_steps)
            cards.write_distances(model, rows)

    def _save_samples(self, phase: Phase, result: Result) -> None:
        self._journal.check()
        spec = result.spec
        kind = "phase" if spec.phase == phase.number else "baseline"
        classes = self._model.num_classes
        arrays.write_images(
            self._workdir / layout.SAMPLES / f"{kind}_{phase.number:02d}.npz",
            result.images,
            labels_of(np.arange(len(result.images)), classes) if classes else None,
            num_steps=spec.num_steps,
            phase=phase.number,
        )
        role = "student" if spec.phase else "teacher"
        grid = report.square_grid(result.images[: report.MAX_IN_GRID])
        self._journal.images(f"samples/{role}", grid, phase.end_update)

    def _save_paths(self, phases: Sequence[Phase], mesh: Mesh) -> None:
        """Writes the DDIM trajectories of a few samples of the last students."""
        path = self._workdir / layout.SAMPLES / "trajectories.npz"
        few = [p for p in phases[1:] if p.num_steps <= _MAX_STEPS_SHOWN]
        models = {
            phase: checkpoint.model_dir(self._workdir, phase.number, phase.num_steps)
            for phase in few
        }
        if not few or parallel.broadcast_from_zero(_is_newer(path, models.values())):
            return
        states, template = {}, param_template(self._model, mesh)
        for phase, path_of_model in models.items():
            states[f"N{phase.num_steps}"] = draw_trajectory(
                self._model,
                checkpoint.load_model(path_of_model, template),
                seed=self._settings.seed,
                num_images=_NUM_PATHS,
                num_steps=phase.num_steps,
            )
        if self._first:
            files.write_npz(path, **states)


def _is_newer(path: Path, others: Iterable[Path]) -> bool:
    """Whether the file exists and is newer than the others."""
    written = [other.stat().st_mtime_ns for other in others]
    return path.exists() and path.stat().st_mtime_ns >= max(written)
