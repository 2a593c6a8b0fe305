"""The loss and the learning rate of each phase."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from progdist.report.read import LEAST, MOST
from progdist.workdir import layout
from progdist.workdir.rows import MetricsRow, read_typed


class Curve(NamedTuple):
    """The metrics of one phase, by global step."""

    phase: int
    num_steps: int
    global_step: Int[np.ndarray, " n"]
    loss: Float[np.ndarray, " n"]
    learning_rate: Float[np.ndarray, " n"]


def read_curves(workdir: str | Path) -> list[Curve]:
    """Reads `metrics.jsonl`, a curve per phase.

    A resumed run may repeat a step; its last row counts. Losses that a logarithmic axis
    cannot show (0 or not finite) are left out.

    Raises:
      FormatError: if a row is malformed.
    """
    return curves_of(read_typed(MetricsRow, Path(workdir, layout.METRICS)))


def curves_of(rows: Iterable[MetricsRow]) -> list[Curve]:
    """Returns a curve per phase."""
    latest = {row.global_step: row for row in rows}
    by_phase: dict[int, list[MetricsRow]] = {}
    for _, row in sorted(latest.items()):
        if LEAST < row.loss < MOST:
            by_phase.setdefault(row.phase, []).append(row)
    return [_curve(phase, rows) for phase, rows in sorted(by_phase.items())]


def _curve(phase: int, rows: Sequence[MetricsRow]) -> Curve:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    step = column("global_step").astype(np.int64)
    return Curve(
        phase, rows[0].num_steps, step, column("loss"), column("learning_rate")
    )
