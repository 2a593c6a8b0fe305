"""Progress display for long reads of data, on stderr."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

LINE_SECONDS = 15.0
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextlib.contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items just completed.

    Shows a bar on a terminal; elsewhere prints a line every LINE_SECONDS. Both tell
    the time left.
    """
    console = Console(stderr=True)
    columns = *Progress.get_default_columns()[:2], MofNCompleteColumn()
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    done, start = 0, time.monotonic()
    last = start

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        bar.advance(task, count)
        if not console.is_terminal and time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            left = datetime.timedelta(
                seconds=round((last - start) / done * (total - done))
            )
            line = f"{title}: {done:,} of {total:,}, {left} left"
            print(line, file=sys.stderr, flush=True)

    with bar:
        task = bar.add_task(title, total=total)
        yield advance
