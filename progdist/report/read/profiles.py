"""Loss of each phase by log-SNR of z_t, from noise to data."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from progdist.report.read import LEAST, MOST
from progdist.workdir.rows import MetricsRow

_LAST = 10  # a profile is the mean over the last tenth of a phase's rows


class Profile(NamedTuple):
    """Loss at the end of a phase, by bin of log-SNR; NaN in empty bins."""

    phase: int
    num_steps: int
    loss: Float[np.ndarray, " bins"]


def profiles_of(rows: Iterable[MetricsRow]) -> list[Profile]:
    """Returns the profile of each phase that has one."""
    latest = {row.global_step: row for row in rows if row.loss_by_logsnr}
    by_phase: dict[int, list[MetricsRow]] = {}
    for _, row in sorted(latest.items()):
        by_phase.setdefault(row.phase, []).append(row)
    profiles = [
        Profile(phase, rows[0].num_steps, _mean_of_last(rows))
        for phase, rows in sorted(by_phase.items())
    ]
    return [p for p in profiles if not np.isnan(p.loss).all()]


def _mean_of_last(rows: Sequence[MetricsRow]) -> Float[np.ndarray, " bins"]:
    last = rows[-math.ceil(len(rows) / _LAST) :]
    values = np.array([row.loss_by_logsnr for row in last], np.float64)
    # Losses that a logarithmic axis cannot show are left out.
    masked = np.ma.masked_where(~((values > LEAST) & (values < MOST)), values)
    return np.ma.filled(masked.mean(axis=0), np.nan)
