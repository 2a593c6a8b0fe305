"""What a run writes down as it goes: rows of numbers, and scalars.

metrics.jsonl and eval.jsonl hold the rows; TensorBoard event files in tensorboard/ the
same numbers. After an interruption the rows beyond the restored step are cut, so that
the files read as if nothing had happened.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from progdist.report import read_rows


class Journal:
    """The rows and scalars of a run; on processes other than the first, nothing."""

    def __init__(self, workdir: Path, global_step: int, active: bool = True) -> None:
        """Opens the journal of a run that goes on from `global_step`."""
        self._active = active
        self._metrics = workdir / "metrics.jsonl"
        self._evaluations = workdir / "eval.jsonl"
        if active:
            _rewrite(self._metrics, lambda row: row["global_step"] <= global_step)
            mend(self._evaluations)
            self._scalars = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=global_step + 1, flush_secs=10
            )

    def metrics(self, row: dict[str, Any]) -> None:
        """Appends a row of metrics.jsonl, and its numbers to TensorBoard."""
        if self._active:
            append(self._metrics, row)
            for name in ("loss", "learning_rate", "grad_norm", "steps_per_second"):
                self._scalars.add_scalar(f"train/{name}", row[name], row["global_step"])
            self._scalars.add_scalar("train/N", row["num_steps"], row["global_step"])

    def evaluation(self, row: dict[str, Any], global_step: int) -> None:
        """Appends a row of eval.jsonl, and its value to TensorBoard."""
        if self._active:
            append(self._evaluations, row)
            name = f"{row['metric']}/{row['role']}_{row['sampler']}"
            self._scalars.add_scalar(name, row["value"], global_step)

    def evaluations(self) -> list[dict[str, Any]]:
        """Returns the rows of eval.jsonl so far."""
        return read_rows(self._evaluations)

    def close(self) -> None:
        """Flushes."""
        if self._active:
            self._scalars.close()


def mend(path: Path) -> None:
    """Drops a last row that was cut short, so that another can follow."""
    _rewrite(path, lambda row: True)


def append(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a file of rows."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _rewrite(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drops rows, and a last one that was cut short, in one replacement."""
    if path.exists():
        rows = [row for row in read_rows(path) if keep(row)]
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(part, path)
