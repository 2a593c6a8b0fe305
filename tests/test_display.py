import functools

import pytest

from progdist.plan import Phase
from progdist.trainer.display import Display


def phase(number, num_updates, batch_size=1, passes=1):
    kind = "distill" if number else "base"
    return Phase(kind, number, 4, num_updates, 0, batch_size, passes)


def started(phases, **settings):
    display = Display(phases, line_seconds=0.0, **settings)
    display.start(phases[0], 0)
    return display


def test_time_left_counts_what_later_phases_cost(capsys):
    """10 of 30 updates at 2 a second, then 40 that cost 5/3 × 2 as much each."""
    display = started([phase(0, 30, 8, 3), phase(1, 40, 16, 5)])
    display.update(10, 0.5, 2.0)
    display.close()
    line = capsys.readouterr().err
    assert "teacher  10/30" in line
    assert "loss 0.5  2 steps/s" in line
    later = 40 * 5 / 3 * 2 / 2
    assert f"left 0:10, plan 1:{10 + round(later) - 60:02d}" in line


@pytest.mark.parametrize(
    ("updates", "clock"), [(0, "0:00"), (596, "1:00"), (36610, "1:01:01")]
)
def test_time_left_is_read_as_a_clock(updates, clock, capsys):
    display = started([phase(0, updates)])
    display.update(0, 0.0, 10.0)
    display.close()
    assert f"left {clock}, plan {clock}" in capsys.readouterr().err


def left(capsys):
    """The remaining seconds of the phase and of the plan, from the last line."""
    words = capsys.readouterr().err.split("left ")[-1].split(", plan ")
    parts = [map(int, word.split(":")) for word in words]
    return [functools.reduce(lambda left, part: left * 60 + part, p) for p in parts]


def test_time_left_includes_evaluations_at_the_speed_of_the_last(capsys):
    """The base model is sampled twice 5 times in 4 steps, and a student three times.

    Until an evaluation has ended, a network pass of one costs as much as in training.
    """
    now = [0.0]
    phases = [phase(0, 10), phase(1, 20), phase(2, 20)]
    display = started(phases, num_samples=5, clock=lambda: now[0])
    display.update(5, 0.5, 0.5)  # 2 seconds a pass
    assert left(capsys) == [10, 10 + 40 * 2 + (40 + 60 + 60) * 2]
    display.update(10, 0.5, 0.5)
    now[0] = 120.0  # 3 seconds a pass
    display.start(phases[1], 0)
    display.update(10, 0.5, 0.5)
    assert left(capsys) == [20, 20 + 20 * 2 + (60 + 60) * 3]
    display.update(20, 0.5, 0.5)
    now[0] += 60.0
    display.start(phases[2], 0)
    display.update(20, 0.5, 0.5)
    assert left(capsys) == [0, 60]
    display.close()


def test_time_left_follows_a_smoothed_speed(capsys):
    """An interval in which nothing but a compilation happened is forgotten."""
    display = started([phase(0, 100)])
    seen = []
    for done, seconds in enumerate([50.0, 1.0, 2.0, 2.0, 2.0], start=1):
        display.update(done, 0.5, 1 / seconds)
        seen.append(left(capsys)[0] / (100 - done))
    assert seen == pytest.approx([50, 1, 1.3, 1.51, 1.657], abs=0.01)
    display.close()


def test_other_processes_show_nothing(capsys):
    display = started([phase(0, 10)], active=False)
    display.update(10, 0.5, 2.0)
    display.note("hello")
    display.close()
    assert capsys.readouterr().err == ""


def test_a_note_is_shown_as_it_is(capsys):
    display = Display([], line_seconds=0.0)
    display.note("runs/[bold]x")
    display.close()
    assert "runs/[bold]x" in capsys.readouterr().err
