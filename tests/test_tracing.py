"""Traces of updates: which ones they hold, and that they change nothing."""

import gzip
import json

import jax
import numpy as np
import pytest

from progdist import parallel
from progdist.commands import train
from progdist.config import Config
from progdist.plan import Phase
from progdist.preflight import Models
from progdist.trainer import recipes, tracing
from progdist.trainer.state import init_state
from tests import tiny
from tests.commands import answer

PHASE = Phase("base", 0, 4, 6, first_update=0, batch_size=8, passes=3)


@pytest.fixture(scope="module")
def recipe():
    mesh = parallel.make_mesh(jax.devices()[:1])
    models = Models(*[tiny.model()] * 3)
    return mesh, recipes.make_recipe("base", Config(), models, None, mesh)


def train_updates(recipe, directory, updates, first=1, fail_at=None):
    """Losses of the updates first … 6, and the lines that are noted."""
    mesh, made = recipe
    state = parallel.place(init_state(tiny.params(), made.optimizer, False), mesh)
    round_ = recipes.make_round(0, PHASE, (), mesh)
    batch, lines, losses = parallel.shard(tiny.batch(8), mesh), [], []
    with tracing.traced(made.train_step, updates, first, directory, lines.append) as go:
        for number in range(first, 7):
            if number == fail_at:
                raise KeyboardInterrupt
            state, metrics = go(state, round_, batch)
            losses.append(np.asarray(metrics.loss))
    return losses, lines


def traced_updates(directory):
    """Numbers of the updates in the traces, which hold no compilation."""
    numbers = []
    for path in directory.rglob("*.trace.json.gz"):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        assert not [e for e in events if "compile_or_get_cached" in e.get("name", "")]
        steps = [e for e in events if e.get("name") == "update"]
        numbers += [int(e["args"]["step_num"]) for e in steps]
    return sorted(numbers)


@pytest.mark.parametrize(
    ("updates", "first", "expected"),
    [
        (range(1, 3), 1, [1, 2]),
        (range(3, 5), 4, [4]),  # after a resume
        (range(6, 7), 1, [6]),
        (range(1, 3), 4, []),
        (range(0), 1, []),
    ],
)
def test_a_trace_holds_its_updates_and_changes_nothing(
    recipe, tmp_path, updates, first, expected
):
    plain, _ = train_updates(recipe, tmp_path, range(0), first)
    jax.clear_caches()  # the first update compiles
    losses, lines = train_updates(recipe, tmp_path, updates, first)
    np.testing.assert_array_equal(losses, plain)
    assert traced_updates(tmp_path) == expected
    assert [str(tmp_path) in line for line in lines] == [True] * bool(expected)


def test_a_trace_that_is_cut_short_is_written(recipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_updates(recipe, tmp_path, range(2, 6), fail_at=4)
    assert traced_updates(tmp_path) == [2, 3]


def test_updates_that_are_done_are_named():
    assert tracing.progress(range(5, 8), 4) == tracing.progress(range(0), 4) == ""
    assert tracing.progress(range(5, 8), 6).endswith("the trace starts at 7")
    assert tracing.progress(range(5, 8), 7).endswith("no trace is written")


@pytest.mark.parametrize("value", ["x", "3", "0:1", "1:0", "-1:2", "29:3", "1:1:1", ""])
def test_updates_beyond_the_plan_are_refused(value, capsys, monkeypatch, tmp_path):
    words = str(tmp_path), "--config=digits:smoke", f"--profile={value}"
    code, error = answer(train, *words, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert error.startswith(f"progdist: --profile={value}: must be UPDATE:COUNT")
    assert error.count("\n") == 1
