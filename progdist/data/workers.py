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

    Closing it drops what no thread has begun, and waits for what one has.

    Args:
      read: called from threads.
      items: taken as they are needed.
      num_workers: how many threads.
      num_ahead: how many items are taken beyond the one yielded; by default one for
        each thread.

    Raises:
      DataError: in place of whatever `read` raised, in the order of the items.
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
    """What a thread returned; a SystemExit there must not end the run without a word.

    `exception` rather than `result`: what is raised here meanwhile, as by Ctrl-C, is
    another thing.
    """
    error = future.exception()
    if error is None or isinstance(error, DataError):
        return future.result()
    found = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    raise DataError(f"a thread that reads data failed: {found}") from error
