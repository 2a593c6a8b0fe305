"""Long computations on the host that a signal can interrupt."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import jax

from progdist import parallel

_TICK_SECONDS = 0.2

_Result = TypeVar("_Result")


class _Task(threading.Thread, Generic[_Result]):
    """A computation in a thread that does not keep the process from exiting."""

    def __init__(self, compute: Callable[[], _Result]) -> None:
        super().__init__(daemon=True)
        self._compute = compute
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._compute()
        except BaseException as error:
            self._error = error

    def result(self) -> _Result:
        """Returns the result, or raises the error, of a finished computation."""
        if self._error:
            raise self._error
        return self._result


def compute_on_zero(
    compute: Callable[[], _Result], check: Callable[[], object]
) -> _Result | None:
    """Computes on process 0, and calls `check` on all processes until it is done.

    The main thread stays free to handle signals, as long as `compute` does its work
    in NumPy, which lets other threads run. If `check` raises, the computation is
    abandoned.

    Args:
      compute: the computation.
      check: called equally often on all processes, every fifth of a second.

    Returns:
      The result; None on the other processes.
    """
    task = _Task(compute) if jax.process_index() == 0 else None
    if task:
        task.start()
    while True:
        if task:
            task.join(_TICK_SECONDS)
        if parallel.broadcast_from_zero(not (task and task.is_alive())):
            return task.result() if task else None
        check()
