"""Threads that read ahead. Decoders release Python's lock, so threads are enough."""

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
    """Yields read(item) in order while threads work on the next ones.

    Closing it drops the items that no thread has begun, and waits for the others.

    Args:
      read: called from threads.
      items: taken as they are needed.
      num_workers: number of threads.
      num_ahead: number of items taken beyond the one yielded; by default one for each
        thread.

    Raises:
      DataError: instead of anything else that `read` raised, at its item's turn.
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
    """Returns a thread's result; a SystemExit there must not end the run silently.

    Asks for its `exception` first: one raised by `result` could also be a Ctrl-C here.
    """
    error = future.exception()
    if error is None or isinstance(error, DataError):
        return future.result()
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    raise DataError(f"a thread that reads data failed: {reason}") from error
