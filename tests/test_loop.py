import jax
import jax.numpy as jnp
import pytest

from progdist import loop
from progdist.state import init_state, make_optimizer
from progdist.step import Metrics, Round
from tests import tiny

ROUND = Round((), jnp.int32(1), jnp.int32(1), jax.random.key(0))
STATE = init_state(tiny.params(), make_optimizer(1.0, 0.0), keep_ema=False)


def run(losses, first=0, calls=None, **intervals):
    """The calls that a run makes whose update k has the loss losses[k - 1]."""
    calls = [] if calls is None else calls

    def step(state, round_, batch):
        state = state._replace(step=state.step + 1)
        ones = [jnp.float32(1)] * 3
        return state, Metrics(jnp.float32(losses[int(state.step) - 1]), *ones)

    settings = {"log_every": 2, "save_every": 4} | intervals
    final = loop.run(
        step,
        STATE._replace(step=jnp.int32(first)),
        ROUND,
        range(first, len(losses)),
        stop=len(losses),
        log=lambda i: calls.append(("log", i.step, i.loss)),
        save=lambda k, state: calls.append(("save", k, int(state.step))),
        **settings,
    )
    return calls, final


def test_reports_and_saves_at_their_intervals_and_at_the_end():
    calls, final = run([1, 3, 5, 7, 9])
    assert calls == [
        ("log", 2, 2.0),
        ("log", 4, 6.0),
        ("save", 4, 4),
        ("log", 5, 9.0),
        ("save", 5, 5),
    ]
    assert final.step == 5


def test_a_resumed_run_reports_at_the_same_steps():
    assert run([1, 3, 5, 7, 9], first=4)[0] == [("log", 5, 9.0), ("save", 5, 5)]


def test_a_finished_phase_does_nothing():
    assert run([1, 2], first=2)[0] == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_the_run_before_it_is_saved(bad):
    calls = []
    with pytest.raises(loop.NonFiniteError, match=r"update 4: loss is (nan|inf)"):
        run([1, 1, 1, bad], calls=calls)
    assert calls == [("log", 2, 1.0)]


def test_the_number_that_is_not_finite_is_named():
    def step(state, round_, batch):
        return state, Metrics(*map(jnp.float32, (1, 1, float("nan"), 1)))

    with pytest.raises(loop.NonFiniteError, match="param_norm"):
        loop.run(step, STATE, ROUND, [0], 1, 1, 1, lambda _: None, lambda *_: None)
