"""The loss of each phase by log-SNR."""

import numpy as np
import pytest

from progdist.diffusion import logsnr_bins
from progdist.report.figures.profiles import profile_figures
from progdist.report.read.profiles import profiles_of
from progdist.workdir.rows import NUM_BINS, MetricsRow, read_row
from tests.workdirs import bars, metrics


def rows(phases=2, per_phase=20):
    """Those of students of 2 ** (phases - 1) steps to a single one."""
    found = []
    for row in metrics(phases, per_phase):
        num_steps = 2 ** (phases - row["phase"])
        profile = bars(num_steps, row["loss"])
        found.append(row | {"num_steps": num_steps, "loss_by_logsnr": profile})
    return found


def profiles(rows):
    return profiles_of([read_row(MetricsRow, r, "metrics.jsonl") for r in rows])


def test_the_rows_have_a_loss_for_each_bin():
    assert len(logsnr_bins.CENTRES) == NUM_BINS


def filled(values):
    return np.array([np.nan if v is None else v for v in values])


def test_a_profile_is_the_mean_of_the_last_tenth_of_a_phase():
    found = profiles(rows())
    assert [(p.phase, p.num_steps) for p in found] == [(0, 4), (1, 2), (2, 1)]
    for phase, profile in enumerate(found):
        last = [r["loss_by_logsnr"] for r in rows() if r["phase"] == phase][-2:]
        expected = np.mean([filled(values) for values in last], axis=0)
        np.testing.assert_allclose(profile.loss, expected)


def test_a_bin_that_is_empty_in_some_rows_has_the_mean_of_the_others():
    some = rows(0)
    some[-2]["loss_by_logsnr"] = [None, 2.0, 3.0, *[1.0] * (NUM_BINS - 3)]
    some[-1]["loss_by_logsnr"] = [4.0, 5.0, float("nan"), *[1.0] * (NUM_BINS - 3)]
    (profile,) = profiles(some)
    np.testing.assert_array_equal(profile.loss[:4], [4.0, 3.5, 3.0, 1.0])


def test_the_last_of_repeated_rows_counts():
    again = [r | {"loss_by_logsnr": [2.0] * NUM_BINS} for r in rows(0)[-5:]]
    (profile,) = profiles(rows(0) + again)
    np.testing.assert_array_equal(profile.loss, 2.0)


@pytest.mark.parametrize("bar", [None, 0.0, float("inf"), 1e300])
def test_without_drawable_losses_there_is_no_profile(bar):
    assert profiles(metrics(1)) == []
    nothing = [r | {"loss_by_logsnr": [bar] * NUM_BINS} for r in metrics(1)]
    assert profiles(nothing) == []


@pytest.mark.parametrize(
    "bad",
    [
        None,
        1.0,
        [1.0] * (NUM_BINS - 1),
        ["x"] * NUM_BINS,
        [True] * NUM_BINS,
        [10**400] * NUM_BINS,
    ],
)
def test_other_than_a_loss_for_each_bin_is_an_error(bad):
    with pytest.raises(ValueError, match=r"^metrics.jsonl: loss_by_logsnr is not a"):
        profiles([r | {"loss_by_logsnr": bad} for r in metrics(0)])


@pytest.mark.parametrize("phases", [0, 4, 13])
def test_each_profile_has_a_figure_of_its_own(phases):
    drawn = profiles(rows(phases, 3))
    axes = [figure.axes[0] for figure in profile_figures(drawn)]
    assert len(axes) == phases + 1
    for found, profile in zip(axes, drawn, strict=True):
        (line,) = found.lines
        there = ~np.isnan(profile.loss)
        np.testing.assert_array_equal(
            line.get_xdata(), np.array(logsnr_bins.CENTRES)[there]
        )
        np.testing.assert_array_equal(line.get_ydata(), profile.loss[there])
        low, high = found.get_ylim()
        assert (low < line.get_ydata()).all()
        assert (line.get_ydata() < high).all()
    assert len({found.get_ylim() for found in axes[1:]}) <= 1  # students compare
