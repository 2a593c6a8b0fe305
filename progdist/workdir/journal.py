"""Journal of a run: the rows and scalars that it appends.

metrics.jsonl and eval.jsonl hold the rows; TensorBoard event files in tensorboard/, and
a run of W&B if there is one, hold the same numbers. After an interruption the rows
beyond the restored step are removed, so that the files read as if nothing had happened.
starts.jsonl records what did happen: a row for every start, and one for every end that
could still be recorded.
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from progdist.errors import InputError
from progdist.workdir import layout
from progdist.workdir.events import Events
from progdist.workdir.files import FormatError, write_bytes
from progdist.workdir.rows import (
    EvalRow,
    MetricsRow,
    read_row,
    read_rows,
)
from progdist.workdir.weights_and_biases import WandbRun

# Fields of a row of metrics that the boards show.
_SCALARS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "skipped",
    "steps_per_second",
    "tflops_per_second",
    "utilisation",
)


class Journal:
    """The rows and scalars of a run; only the first process writes."""

    def __init__(
        self,
        workdir: Path,
        global_step: int,
        edges: Sequence[float],
        active: bool = True,
        check: Callable[[], None] = lambda: None,
        wandb_run: WandbRun | None = None,
    ) -> None:
        """Opens the journal of a run that resumes from `global_step`.

        Args:
          workdir: folder of the run.
          global_step: updates that the run has done.
          edges: edges of the log-SNR bins, one more than there are bins.
          active: whether this process writes.
          check: called before each write; may raise to prevent it.
          wandb_run: run of W&B that gets what TensorBoard gets; closed by the caller.
        """
        self._active, self._edges, self.check = active, edges, check
        self._metrics = workdir / layout.METRICS
        self._evaluations = workdir / layout.EVALUATIONS
        self._starts = workdir / layout.STARTS
        if active:
            _rewrite(self._metrics, lambda row: self._step_of(row) <= global_step)
            mend(self._evaluations)
            mend(self._starts)
            self._events = Events(workdir / layout.TENSORBOARD, global_step + 1)
            self._boards = [self._events, *([wandb_run] if wandb_run else [])]

    def _step_of(self, row: dict[str, Any]) -> int:
        return read_row(MetricsRow, row, self._metrics).global_step

    def start(self, row: dict[str, Any]) -> None:
        """Appends a row of starts.jsonl."""
        if self._active:
            self.check()
            append(self._starts, row)

    def end(self, how: str) -> None:
        """Appends the end of this start to starts.jsonl."""
        if self._active:
            self.check()
            append(self._starts, {"end": how, "time": utc_now()})

    def metrics(self, row: MetricsRow) -> None:
        """Appends a row of metrics.jsonl, and its numbers to the boards."""
        if self._active:
            self.check()
            append(self._metrics, row.to_json())
            scalars = {f"train/{name}": getattr(row, name) for name in _SCALARS}
            scalars = {name: v for name, v in scalars.items() if v is not None}
            scalars["train/N"] = row.num_steps
            bars, name = row.loss_by_logsnr, "train/loss_by_logsnr"
            for board in self._boards:
                board.scalars(scalars, row.global_step)
                board.histogram(name, bars, self._edges, row.global_step)

    def evaluation(self, row: EvalRow, global_step: int) -> None:
        """Appends a row of eval.jsonl, and its value to the boards."""
        if self._active:
            self.check()
            append(self._evaluations, row.to_json())
            name = f"{row.metric}/{row.role}_{row.sampler}"
            for board in self._boards:
                board.scalars({name: row.value}, global_step)

    def images(
        self, name: str, grid: UInt8[np.ndarray, "h w ch"], global_step: int
    ) -> None:
        """Shows a grid of images on the boards."""
        if self._active:
            self.check()
            for board in self._boards:
                board.image(name, grid, global_step)

    def evaluations(self) -> list[EvalRow]:
        """Returns the rows of eval.jsonl so far, without those of other programs."""
        rows = []
        for row in read_rows(self._evaluations):
            with contextlib.suppress(FormatError):
                rows.append(read_row(EvalRow, row, self._evaluations))
        return rows

    def close(self, error: type[BaseException] | None = None, *_: object) -> None:
        """Flushes; records the error that ended the run. For `ExitStack.push`."""
        if error:
            # Must not hide the error that ended the run, such as a full disk or a lock
            # that was taken over.
            with contextlib.suppress(OSError, InputError):
                self.end(error.__name__)
        if self._active:
            self._events.close()


def utc_now() -> str:
    """Returns the time in UTC, to the second, in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def mend(path: Path) -> None:
    """Removes a truncated last row, so that another can follow."""
    _rewrite(path, lambda row: True)


def append(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a file of rows.

    Raises:
      OSError: if it cannot be written; its `filename` is the path.
    """
    try:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:  # does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None


def _rewrite(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Removes rows and a truncated last row, in one atomic replacement."""
    if path.exists():
        rows = [row for row in read_rows(path) if keep(row)]
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
