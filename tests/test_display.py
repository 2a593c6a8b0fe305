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
