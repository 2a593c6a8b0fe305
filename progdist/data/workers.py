"""Threads that read ahead. Decoders release the GIL, so threads suffice."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from progdist.data.source import DataError

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_ahead(
    read: Callable[[Item], Value],
    items: Iterable[Item],
    num_workers: int,
    num_ahead: int | None = None,
) -> Generator[Value, None, None]:
    """Yields read(item) in order, while threads work on the next items.

    Closing the generator drops the items not yet begun and waits for the others.

    Args:
      read: function of an item; called from threads.
      items: the items, consumed as needed.
      num_workers: number of threads.
      num_ahead: number of items to read beyond the one yielded; by default one per
        thread.

    Raises:
      DataError: in place of any other exception of `read`, when the item is due.
    """
    num_ahead = num_workers if num_ahead is None else num_ahead
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="data")
    pending: deque[Future[Value]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > num_ahead:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Value]) -> Value:
    """Returns a thread's result; its SystemExit must not end the run silently.

    Reads `exception` first, since `result` could also raise a Ctrl-C of this thread.
    """
    error = future.exception()
    if error is None or isinstance(error, DataError):
        return future.result()
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    raise DataError(f"a thread that reads data failed: {reason}") from error
