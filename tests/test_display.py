import functools
import io
import re
import time

import pytest
from rich.console import Console
from rich.table import Table

from progdist.data import progress
from progdist.plan import Phase
from progdist.trainer.display import Display


def phase(number, num_updates, batch_size=1, passes=1):
    kind = "distill" if number else "base"
    return Phase(kind, number, 4, num_updates, 0, batch_size, passes)


def terminal(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width)


def frames(console):
    """Everything that was drawn, by lines, without colours and cursor movements."""
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]


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
    assert "loss 0.5  2 updates/s" in line
    later = 40 * 5 / 3 * 2 / 2
    assert f"left 0:10, run 1:{10 + round(later) - 60:02d}" in line


@pytest.mark.parametrize(
    ("updates", "clock"), [(0, "0:00"), (596, "1:00"), (36610, "1:01:01")]
)
def test_time_left_is_read_as_a_clock(updates, clock, capsys):
    display = started([phase(0, updates)])
    display.update(0, 0.0, 10.0)
    display.close()
    assert f"left {clock}, run {clock}" in capsys.readouterr().err


def left(capsys):
    """The remaining seconds of the phase and of the plan, from the last line."""
    words = capsys.readouterr().err.split("left ")[-1].split(", run ")
    parts = [map(int, word.split(":")) for word in words]
    return [functools.reduce(lambda left, part: left * 60 + part, p) for p in parts]


def test_time_left_includes_evaluations_at_the_speed_of_the_last(capsys):
    """The base model is sampled twice 5 times in 4 steps, and a student three times.

    Until an evaluation has ended, a network pass of one costs as much as in training.
    """
    now = [0.0]
    phases = [phase(0, 10), phase(1, 20), phase(2, 20)]
    calls = [2 * 5 * 4, 3 * 5 * 4, 3 * 5 * 4]
    display = started(
        phases, sampling_passes=lambda p: calls[p.number], clock=lambda: now[0]
    )
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


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_is_one_line_on_a_terminal_of_any_width(width):
    """Long counts, times and names; a wrapped line would lack the counts."""
    console = terminal(width)
    base, first = phase(0, 800_000, 128, 3), phase(1, 50_000, 128, 5)
    display = started([base, first._replace(num_steps=1024)], console=console)
    display.update(799_900, 0.0123456, 12.345)
    time.sleep(0.3)  # a few frames
    display.update(800_000, 0.0123456, 12.345)
    with display.counting("teacher ancestral N = 8192", 50_000) as advance:
        advance(1234)
        time.sleep(0.3)
    display.close()
    lines = [line for line in frames(console) if line]
    assert max(map(len, lines)) <= width
    for line in lines:
        assert re.match(r"teacher (ancestral .* )?.*\d/\d", line)
    assert any("loss 0.01235" in line and "left" in line for line in lines)
    assert any("N = 8192" in line and "1234/50000" in line for line in lines)


def test_lines_without_a_terminal_fit_into_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    base = phase(10, 10_000_000, 2048, 3)._replace(num_steps=1024)
    display = started([base])
    display.update(1_234_567, 0.0123456, 0.12345)
    with display.counting("x" * 100, 50_000) as advance:
        advance(49_999)
        time.sleep(0.1)
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert any("1234567/10000000  loss 0.01235" in line for line in lines)
    assert any("49,999 of 50,000, 0:00 left" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_compiling_is_shown_until_the_first_update_of_each_kind(capsys):
    phases = [phase(0, 10), phase(1, 10), phase(2, 10)]
    display = started(phases)
    display.step()
    display.start(phases[1], 0)
    display.step()
    display.start(phases[2], 0)
    display.close()
    assert [line.split("  ") for line in capsys.readouterr().err.splitlines()] == [
        ["teacher", "0/10", "compiling …"],
        ["teacher", "1/10"],
        ["round 1: 4 steps", "0/10", "compiling …"],
        ["round 1: 4 steps", "1/10"],
        ["round 2: 4 steps", "0/10"],
    ]


def test_a_compilation_is_not_kept_for_the_next_line(capsys):
    phases = [phase(0, 10), phase(1, 10), phase(2, 10)]
    display = Display(phases, line_seconds=1e6)
    for each in phases:
        display.start(each, 0)
        display.step()
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["teacher", "round 1: 4 steps"]


def test_every_update_moves_the_bar(capsys):
    """Between rows of metrics too, which may be minutes apart."""
    display = started([phase(0, 10)])
    display.update(5, 0.5, 2.0)
    display.step()
    assert capsys.readouterr().err.splitlines()[-1].startswith("teacher  6/10  loss")
    display.close()


def test_results_go_to_standard_output_and_progress_does_not(capsys):
    display = started([phase(0, 10)])
    display.update(5, 0.5, 2.0)
    display.note("note")
    display.result("teacher FD 1.0")
    display.close()
    display.result(Table("student", title="FD"))
    out, err = capsys.readouterr()
    assert out.startswith("teacher FD 1.0\n")
    assert "student" in out
    assert "note" not in out
    assert "teacher  5/10" in err
    assert "FD" not in err


def test_on_a_terminal_results_reach_a_redirected_standard_output(capsys):
    console = terminal(80)
    display = started([phase(0, 10)], console=console)
    display.result("teacher FD 1.0")
    display.close()
    assert capsys.readouterr().out == "teacher FD 1.0\n"
    assert "FD" not in console.file.getvalue()


def test_a_computation_that_cannot_be_counted_shows_the_time_so_far(
    capsys, monkeypatch
):
    """Also while it does not call back, as in a compilation."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with progress.counting("fd of the features", 1):
        time.sleep(0.1)
    assert "fd of the features: 0:00 so far" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(0, 100, "0:30 so far"), (50, 100, "0:30 left"), (1, 121, "1:00:00 left")],
)
def test_time_left_of_what_is_counted(done, total, text):
    assert progress.time_text(done, total, 30.0) == text
