import math

import jax
import jax.numpy as jnp
import pytest

from progdist.diffusion import logsnr_bins
from progdist.diffusion.losses import ByLogsnr
from progdist.errors import NonFiniteError
from progdist.trainer import loop
from progdist.trainer.state import Tally, init_state, make_optimizer
from progdist.trainer.step import Metrics, Round
from tests import tiny

ROUND = Round((), jnp.int32(1), jnp.int32(1), jax.random.key(0))
STATE = init_state(tiny.params(), make_optimizer(), keep_ema=False)
NOTHING = Tally()
NAN, INF = float("nan"), float("inf")


def test_the_first_update_is_not_timed_unless_it_is_alone(monkeypatch):
    """It takes 100 seconds to compile, and every update takes one."""
    now = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def speeds(log_every, first):
        def step(state, *_):
            state = state._replace(step=state.step + 1)
            now[0] += 1.0 + 100.0 * (int(state.step) == first + 1)
            return state, Metrics(*[jnp.float32(1)] * 4, by_logsnr(1.0, 1))

        seen = []
        loop.run(
            step,
            STATE._replace(step=jnp.int32(first)),
            ROUND,
            batches=range(first, 6),
            pace=loop.Pace(6, log_every, save_every=6),
            hooks=loop.Hooks(
                lambda interval: seen.append(interval.steps_per_second),
                save=lambda *_: None,
            ),
        )
        return seen

    assert speeds(3, first=0) == pytest.approx([1, 1])
    assert speeds(3, first=1) == pytest.approx([1, 1])
    assert speeds(2, first=1) == pytest.approx([1 / 101, 1, 1])


def by_logsnr(loss, step):
    """Of a batch of four, three in the bin of the update's number and one beside it."""
    shares = (
        jnp.zeros(len(logsnr_bins.CENTRES)).at[step].set(0.75).at[step + 1].set(0.25)
    )
    return ByLogsnr(loss * shares, shares)


def run(losses, first=0, calls=None, tally=NOTHING, stops=(), bars=None, **pace):
    """The calls that a run makes whose update k has the loss losses[k - 1].

    With it the final state, None if the loop stopped at one of `stops`. To `bars` are
    added the losses by log-SNR.
    """
    calls = [] if calls is None else calls
    bars = [] if bars is None else bars
    asked = iter(range(first + 1, len(losses) + 1))

    def step(state, round_, batch):
        state = state._replace(step=state.step + 1)
        ones = [jnp.float32(1)] * 3
        loss = jnp.float32(losses[int(state.step) - 1])
        return state, Metrics(loss, *ones, by_logsnr(loss, int(state.step)))

    def log(interval):
        calls.append(("log", interval.step, interval.loss))
        bars.append(interval.loss_by_logsnr)

    hooks = loop.Hooks(
        log=log,
        save=lambda k, state, tally: calls.append(("save", k, tally)),
        stops=lambda: next(asked) in stops,
    )
    final = None
    settings = {"log_every": 2, "save_every": 4} | pace
    try:
        final = loop.run(
            step,
            STATE._replace(step=jnp.int32(first)),
            ROUND,
            batches=range(first, len(losses)),
            pace=loop.Pace(len(losses), **settings),
            hooks=hooks,
            tally=tally,
        )
    except loop.Stopped as stopped:
        calls.append(("stopped", stopped.step))
    return calls, final


def test_reports_and_saves_at_their_intervals_and_at_the_end():
    calls, final = run([1, 3, 5, 7, 9])
    assert calls == [
        ("log", 2, 2.0),
        ("log", 4, 6.0),
        ("save", 4, Tally()),
        ("log", 5, 9.0),
        ("save", 5, Tally()),
    ]
    assert final.step == 5


def test_a_resumed_run_reports_at_the_same_steps():
    assert run([1, 3, 5, 7, 9], first=4)[0] == [("log", 5, 9.0), ("save", 5, Tally())]


def test_a_finished_phase_does_nothing():
    assert run([1, 2], first=2)[0] == []


def test_a_run_that_is_stopped_saves_first_and_goes_on_with_the_same_rows():
    """Also in the middle of an interval, whose sums are saved too."""
    losses, bars = [1.5, 3.25, 5.125, 7.0, 9.0], []
    whole = [call for call in run(losses, bars=bars)[0] if call[0] == "log"]
    for k in range(1, 6):
        bars_again = []
        calls = run(losses, stops=(k,), bars=bars_again)[0]
        assert calls[-1] == ("stopped", k)
        name, step, tally = calls[-2]
        assert (name, step) == ("save", k)
        calls += run(losses, first=k, tally=tally, bars=bars_again)[0]
        assert bars_again == bars
        assert [call for call in calls if call[0] == "log"] == whole


def test_a_bin_of_the_logsnr_has_the_mean_of_its_examples():
    """Of all updates but the skipped one, which has no example anywhere."""
    bars = []
    run([1, NAN, 5, 7], bars=bars, log_every=4, max_skipped=1)
    expected = [None] * len(logsnr_bins.CENTRES)
    expected[1:6] = 1.0, 1.0, 5.0, (5 * 0.25 + 7 * 0.75) / (0.25 + 0.75), 7.0
    assert bars == [expected]


@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_finite_stops_the_run_before_it_is_saved(bad):
    calls = []
    with pytest.raises(NonFiniteError, match=r"update 4: loss is (nan|inf)"):
        run([1, 1, 1, bad], calls=calls)
    assert calls == [("log", 2, 1.0)]


def test_single_broken_updates_are_skipped_and_counted():
    calls, final = run([1, NAN, 5, INF, 9], max_skipped=1)
    assert calls == [
        ("log", 2, 1.0),
        ("log", 4, 5.0),
        ("save", 4, Tally(skipped=2, skipped_in_a_row=1)),
        ("log", 5, 9.0),
        ("save", 5, Tally(skipped=2)),
    ]
    assert final.step == 5


def test_more_broken_updates_in_a_row_than_allowed_stop_the_run():
    run([1, NAN, NAN, 1], max_skipped=2)
    with pytest.raises(NonFiniteError, match="update 4"):
        run([1, NAN, NAN, NAN], max_skipped=2)


def test_broken_updates_in_a_row_are_counted_across_a_stop():
    calls, _ = run([1, NAN, NAN], stops=(3,), max_skipped=2)
    tally = calls[-2][2]
    with pytest.raises(NonFiniteError, match="update 4"):
        run([1, NAN, NAN, NAN], first=3, tally=tally, max_skipped=2)


def test_an_interval_without_a_good_update_has_no_row():
    calls, _ = run([1, 1, NAN], max_skipped=1)
    assert calls == [("log", 2, 1.0), ("save", 3, Tally(skipped=1, skipped_in_a_row=1))]


def test_the_number_that_is_not_finite_is_named():
    def step(state, round_, batch):
        numbers = map(jnp.float32, (1, 1, math.nan, 1))
        return state, Metrics(*numbers, by_logsnr(1.0, 1))

    hooks = loop.Hooks(lambda _: None, lambda *_: None)
    with pytest.raises(NonFiniteError, match="param_norm"):
        loop.run(step, STATE, ROUND, batches=[0], pace=loop.Pace(1, 1, 1), hooks=hooks)
