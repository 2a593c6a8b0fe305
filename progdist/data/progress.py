"""Progress display of long computations, on stderr."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from progdist.errors import shown

LINE_SECONDS = 15.0
WIDTH = 80  # of lines where there is no terminal
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items just completed.

    Shows a bar on a terminal; elsewhere prints a line every LINE_SECONDS, even while
    the caller is busy with a single item. A total of 1 means that nothing can be
    counted, and shows the time so far instead of the time left.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with (
            make_bars(console, transient=True) as bars,
            bar(bars, title, total) as advance,
        ):
            yield advance
    else:
        with lines(title, total) as advance:
            yield advance


def make_bars(console: Console, transient: bool = False) -> Progress:
    """Returns progress bars, each of a single line at any width."""
    return Progress(
        TextColumn("{task.description}", style="bold", table_column=_one_line()),
        BarColumn(bar_width=None),
        _CountColumn(_one_line()),
        _StatusColumn(_one_line()),
        console=console,
        transient=transient,
        # Else results would appear on stderr.
        redirect_stdout=sys.stdout.isatty(),
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def bar(bars: Progress, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `counting`, among the bars of a terminal; then removes its bar."""
    task = bars.add_task(title, total=total if total > 1 else None, status=None)
    try:
        yield lambda count: bars.advance(task, count)
    finally:
        bars.remove_task(task)


@contextlib.contextmanager
def lines(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `counting` does where there is no terminal."""
    done, start, stop = 0, time.monotonic(), threading.Event()

    def advance(count: int) -> None:
        nonlocal done
        done += count

    def say() -> None:
        while not stop.wait(LINE_SECONDS):
            counts = f"{done:,} of {total:,}, " if total > 1 else ""
            text = f"{counts}{time_text(done, total, time.monotonic() - start)}"
            print_line(f"{title:.{WIDTH - 2 - len(text)}}: {text}")

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        stop.set()
        thread.join()


def print_line(text: str) -> None:
    """Prints a line on stderr at once."""
    print(shown(str(text)), file=sys.stderr, flush=True)


def time_text(done: int | float, total: int | float | None, seconds: float) -> str:
    """Returns the time left, or the time so far if nothing can be counted yet."""
    if not total or total == 1 or not done:
        return f"{clock_text(seconds)} so far"
    return f"{clock_text(seconds / done * (total - done))} left"


def clock_text(seconds: float) -> str:
    """Returns a time as minutes and seconds, or with hours."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"


class _CountColumn(ProgressColumn):
    """Column with the items done and their number, if they can be counted."""

    def render(self, task: Task) -> Text:
        counts = f"{task.completed:.0f}/{task.total:.0f}" if task.total else ""
        return Text(counts)


class _StatusColumn(ProgressColumn):
    """Column with the field `status` of a bar; the time left if it is None."""

    def render(self, task: Task) -> Text:
        status = task.fields["status"]
        if status is None:
            status = time_text(task.completed, task.total, task.elapsed or 0.0)
        return Text(status)


def _one_line() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")
