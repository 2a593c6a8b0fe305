"""The loss and the learning rate of each phase."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from progdist.report.read import LEAST, MOST
from progdist.report.read.settings import Settings, read_settings
from progdist.workdir import layout
from progdist.workdir.rows import MetricsRow, read_typed


class Curve(NamedTuple):
    """The metrics of one phase.

    Attributes:
      rate: the learning rate of its configuration; the largest in its rows if there is
        no configuration.
    """

    phase: int
    num_steps: int
    rate: float
    global_step: Int[np.ndarray, " n"]
    step: Int[np.ndarray, " n"]
    loss: Float[np.ndarray, " n"]
    learning_rate: Float[np.ndarray, " n"]


def read_curves(workdir: str | Path) -> list[Curve]:
    """Reads `metrics.jsonl`, a curve per phase.

    A resumed run may repeat a step; its last row counts. Losses that a logarithmic axis
    cannot show (0 or not finite) are left out.

    Raises:
      FormatError: if a row is malformed.
    """
    rows = read_typed(MetricsRow, Path(workdir, layout.METRICS))
    return curves_of(rows, read_settings(workdir))


def curves_of(rows: Iterable[MetricsRow], settings: Settings) -> list[Curve]:
    """Returns a curve per phase."""
    latest = {row.global_step: row for row in rows}
    by_phase: dict[int, list[MetricsRow]] = {}
    for _, row in sorted(latest.items()):
        if LEAST < row.loss < MOST:
            by_phase.setdefault(row.phase, []).append(row)
    return [_curve(rows, settings) for _, rows in sorted(by_phase.items())]


def _curve(rows: Sequence[MetricsRow], settings: Settings) -> Curve:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    trainer = "distill" if rows[0].phase else "base"
    rate = settings.get(f"{trainer}.learning_rate")
    if not isinstance(rate, int | float) or not 0 < rate < MOST:
        rate = column("learning_rate").max()
    return Curve(
        rows[0].phase,
        rows[0].num_steps,
        float(rate),
        column("global_step").astype(np.int64),
        column("step").astype(np.int64),
        column("loss"),
        column("learning_rate"),
    )
