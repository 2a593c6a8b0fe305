"""What a finished phase leaves: images, distances to the data, figures, a table."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from progdist import checkpoint, parallel, report
from progdist.config import Evaluation
from progdist.evaluate import evaluator, extraction, sampling
from progdist.evaluate.evaluator import Drawing, Identified, identified
from progdist.evaluate.references import Reference
from progdist.model import Model, Params, param_template
from progdist.plan import Phase
from progdist.workdir import files
from progdist.workdir.journal import Journal

# The last rounds are the ones whose paths can be seen whole, as in the paper's figure.
_MOST_STEPS_DRAWN, _PATHS_DRAWN = 4, 3


class Results:
    """Measures and draws the models of a run; what is there already is not redone."""

    def __init__(
        self,
        workdir: Path,
        model: Model,
        mesh: Mesh,
        evaluation: Evaluation,
        reference: Reference,
        journal: Journal,
        note: Callable,
        check: Callable[[], None],
    ) -> None:
        """Takes the pieces of the run.

        `note` shows something to the user; `check`, called with each batch of images,
        may raise to end the run there.
        """
        self._workdir, self._model, self._mesh = workdir, model, mesh
        self._evaluation, self._journal = evaluation, journal
        self._note, self._check = note, check
        self._first = jax.process_index() == 0
        size, shape = evaluation.batch_size, model.image_shape
        self._gauge = evaluator.make_gauge(
            model,
            mesh,
            evaluator.Samples(evaluation.num_samples, evaluation.seed, size),
            [extraction.make_extractor("pixels", shape, size)],
            ["fd"],
            reference._replace(counting=self._counting),
        )

    def add(
        self, phase: Phase, params: Params, teacher: Phase, teacher_params: Params
    ) -> None:
        """Measures a phase's model and the undistilled teacher at its N, and draws."""
        kind, base = f"phase_{phase.number:02d}", identified(teacher_params)
        n, trained = phase.num_steps, teacher.num_steps
        if phase.number:
            one = Drawing(phase.number, n, n, "ddim")
            self._measure(phase, one, identified(params), kind)
            kind = f"baseline_{phase.number:02d}"
        self._measure(phase, Drawing(0, trained, n, "ddim"), base, kind)
        gamma = self._evaluation.gamma
        self._measure(phase, Drawing(0, trained, n, "ancestral", gamma), base)
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
        self, phase: Phase, one: Drawing, model: Identified, samples: str = ""
    ) -> None:
        """Adds a row to eval.jsonl, after the first images as samples/<samples>.npz."""
        done = self._journal.evaluations()
        missing = evaluator.missing(self._gauge, one, model, done)
        if not missing:
            return
        first: list[np.ndarray] = []

        def watch(images: evaluator.Images) -> None:
            self._check()
            if sum(map(len, first)) < self._evaluation.grid_images:
                first.append(images)

        rows = evaluator.measure(self._gauge, one, model, missing, watch)
        if samples and self._first:
            self._keep_samples(phase, one, np.concatenate(first), samples)
        for row in rows:
            self._journal.evaluation(row, phase.end_update)
            name = f"{row.role} {one.sampler:9} N = {one.num_steps:<5}"
            self._note(f"  {name} {row.metric} {row.value:.4g}")

    def _keep_samples(
        self, phase: Phase, one: Drawing, images: evaluator.Images, name: str
    ) -> None:
        drawn = images[: self._evaluation.grid_images]
        files.write_npz(
            self._workdir / "samples" / f"{name}.npz",
            images=drawn,
            num_steps=np.array(one.num_steps),
            phase=np.array(phase.number),
        )
        role = "student" if one.phase else "teacher"
        grid = report.square_grid(drawn)
        self._journal.images(f"samples/{role}", grid, phase.end_update)

    @contextlib.contextmanager
    def _counting(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """The display has the terminal; a run can be stopped in a long reading too."""
        yield lambda count: self._check()

    def _save_paths(self, phases: Sequence[Phase]) -> None:
        """Writes the states of a few samples on their way, for the last students."""
        path = self._workdir / "samples" / "trajectories.npz"
        few = [p for p in phases[1:] if p.num_steps <= _MOST_STEPS_DRAWN]
        models = {
            phase: checkpoint.model_dir(self._workdir, phase.number, phase.num_steps)
            for phase in few
        }
        if not few or parallel.broadcast_from_zero(_is_newer(path, models.values())):
            return
        template = param_template(self._model, self._mesh)
        states = {}
        for phase, model in models.items():
            states[f"N{phase.num_steps}"] = sampling.draw_trajectory(
                self._model,
                checkpoint.load_model(model, template),
                seed=self._evaluation.seed,
                num_images=_PATHS_DRAWN,
                num_steps=phase.num_steps,
            )
        if self._first:
            files.write_npz(path, **states)


def _is_newer(path: Path, others: Iterable[Path]) -> bool:
    """Whether the file is there, and was written after the others."""
    written = [other.stat().st_mtime_ns for other in others]
    return path.exists() and path.stat().st_mtime_ns >= max(written)
