import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from progdist.errors import InputError
from progdist.plan import make_plan, num_rounds, read_plan, to_json
from progdist.trainer import state_machine
from progdist.trainer.state import Snapshot, init_state, make_optimizer
from tests import tiny
from tests.toy import quick


def short_plan(base_updates, round_updates, start_steps, end_steps, ratio=2):
    return make_plan(
        base_updates=base_updates,
        base_batch_size=1,
        round_updates=round_updates,
        round_batch_size=1,
        start_steps=start_steps,
        end_steps=end_steps,
        ratio=ratio,
    )


def test_the_published_plan_of_cifar10():
    phases = make_plan(
        base_updates=800_000,
        base_batch_size=128,
        round_updates=50_000,
        round_batch_size=128,
        start_steps=8192,
        end_steps=1,
        long_rounds=2,
        long_updates=100_000,
    )
    assert [p.num_steps for p in phases] == [2**k for k in range(13, -1, -1)]
    assert [p.num_updates for p in phases[-3:]] == [50_000, 100_000, 100_000]
    assert phases[-1].end_update == 800_000 + 11 * 50_000 + 2 * 100_000


@quick
@given(st.integers(1, 5), st.integers(0, 6), st.integers(2, 4), st.integers(1, 9))
def test_every_plan_ends_at_end_steps_and_leaves_no_gap(end, rounds, ratio, updates):
    phases = short_plan(7, updates, end * ratio**rounds, end, ratio)
    assert len(phases) == rounds + 1
    assert phases[-1].num_steps == end
    for one, other in itertools.pairwise(phases):
        assert one.num_steps == ratio * other.num_steps
        assert one.end_update == other.first_update
        assert other.number == one.number + 1


@pytest.mark.parametrize("steps", [(6, 1, 2), (8, 3, 2), (8, 1, 3), (1, 2, 2)])
def test_steps_that_no_number_of_rounds_connects_are_refused(steps):
    with pytest.raises(ValueError, match="must be end_steps"):
        num_rounds(*steps)


@pytest.mark.parametrize("steps", [(8, 0, 2), (8, 1, 1), (8, 1, 0), (8, -1, -2)])
def test_factors_that_lead_nowhere_are_refused_and_not_followed_for_ever(steps):
    with pytest.raises(ValueError, match="must be at least 1 and 2"):
        num_rounds(*steps)


def test_a_plan_says_what_an_update_costs_and_survives_its_file(tmp_path):
    """An update costs three passes of the student, and one a teacher step."""
    phases = short_plan(5, 5, 9, 1, ratio=3)
    assert [(p.kind, p.passes) for p in phases] == [
        ("base", 3),
        ("distill", 6),
        ("distill", 6),
    ]
    (tmp_path / "plan.json").write_text(to_json(phases))
    assert read_plan(tmp_path / "plan.json") == phases
    assert read_plan(tmp_path / "none.json") == ()


WRONG = {**short_plan(5, 5, 4, 1)[0]._asdict(), "num_updates": "5"}


@pytest.mark.parametrize(
    "text", ["", "{}x", "[1]", '[{"kind": "base"}]', json.dumps([WRONG])]
)
def test_a_file_that_is_no_plan_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: not a plan"):
        read_plan(tmp_path / "plan.json")


def test_a_given_teacher_is_not_trained():
    first = short_plan(0, 10, 4, 1)[0]
    assert first.num_updates == first.end_update == 0


@pytest.mark.parametrize("ema", [True, False])
def test_advance_makes_teacher_and_student_of_the_finished_model(ema):
    optimizer = make_optimizer()
    finished = init_state(tiny.params(), optimizer, keep_ema=True)
    finished = finished._replace(ema_params=tiny.params(1), step=jnp.int32(9))
    opt_state = jax.tree.map(lambda x: x + 1, finished.opt_state)
    finished = finished._replace(opt_state=opt_state)
    begun = state_machine.swap(Snapshot(2, finished, ()), optimizer, keep_ema=ema)
    assert begun.phase == 3
    assert begun.state.step == 0
    assert (begun.state.ema_params is not None) == ema
    fresh = optimizer.init(tiny.params())
    for a, b in (
        (begun.teacher_params, tiny.params(1)),
        (begun.state.params, tiny.params(1)),
        (begun.state.opt_state, fresh),
    ):
        jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_run_goes_on_from_any_phase_and_swaps_between_phases_only(start):
    phases, events = short_plan(5, 5, 4, 1), []

    def train(phase, snapshot):
        assert snapshot.phase == phase.number
        events.append(("train", phase.num_steps))
        return snapshot

    def begin_round(snapshot):
        events.append("swap")
        return snapshot._replace(phase=snapshot.phase + 1)

    def finish(phase, snapshot):
        events.append(("finish", phase.num_steps))

    state = init_state(tiny.params(), make_optimizer(), keep_ema=False)
    last = state_machine.run(
        phases,
        Snapshot(start, state, ()),
        train=train,
        finish=finish,
        begin_round=begin_round,
    )
    expected = []
    for phase in phases[start:]:
        expected += ["swap"] if phase.number > start else []
        expected += [("train", phase.num_steps), ("finish", phase.num_steps)]
    assert events == expected
    assert last.phase == 2
