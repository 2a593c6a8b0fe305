"""A run's journal, and rows for it."""

from progdist.diffusion import logsnr_bins
from progdist.workdir.journal import Journal
from progdist.workdir.rows import EvalRow, MetricsRow


def row(step):
    return MetricsRow(
        global_step=step,
        phase=0,
        num_steps=4,
        step=step,
        loss=1.0,
        grad_norm=1.0,
        learning_rate=0.1,
        skipped=0,
        steps_per_second=2.0,
        loss_by_logsnr=[1.0] * len(logsnr_bins.CENTRES),
    )


def measured(metric="FD-pixels", value=1.0):
    return EvalRow(
        phase=1,
        role="student",
        sampler="ddim",
        num_steps=2,
        trained_steps=2,
        num_samples=10,
        metric=metric,
        value=value,
    )


def open_journal(workdir, global_step, active=True):
    return Journal(workdir, global_step, logsnr_bins.EDGES, active)
