import pytest

from progdist.trainer.display import Display, Work


def test_time_left_counts_what_later_phases_cost(capsys):
    """10 of 30 updates at 2 a second, then 40 that cost 5/3 as much each."""
    display = Display([Work(30, 3.0), Work(40, 5.0)], line_seconds=0.0)
    display.start(0, "teacher", 0)
    display.update(10, 0.5, 2.0)
    display.close()
    line = capsys.readouterr().err
    assert "teacher  10/30" in line
    assert "loss 0.5  2 steps/s" in line
    later = 40 * 5 / 3 / 2
    assert f"left 0:10, plan 0:{10 + round(later)}" in line


@pytest.mark.parametrize(
    ("updates", "clock"), [(0, "0:00"), (596, "1:00"), (36610, "1:01:01")]
)
def test_time_left_is_read_as_a_clock(updates, clock, capsys):
    display = Display([Work(updates, 1.0)], line_seconds=0.0)
    display.start(0, "t", 0)
    display.update(0, 0.0, 10.0)
    display.close()
    assert f"left {clock}, plan {clock}" in capsys.readouterr().err


def test_other_processes_show_nothing(capsys):
    display = Display([Work(10, 1.0)], active=False, line_seconds=0.0)
    display.start(0, "t", 0)
    display.update(10, 0.5, 2.0)
    display.note("hello")
    display.close()
    assert capsys.readouterr().err == ""


def test_a_note_is_shown_as_it_is(capsys):
    display = Display([], line_seconds=0.0)
    display.note("runs/[bold]x")
    display.close()
    assert "runs/[bold]x" in capsys.readouterr().err
