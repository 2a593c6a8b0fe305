"""Partial results of a long computation, kept in a file until it is done."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax

from progdist import parallel
from progdist.errors import Interrupted
from progdist.workdir import array_cache, provenance
from progdist.workdir.array_cache import Arrays, Key

KEEP_SECONDS = 30.0
LEAST_RATIO = 20.0  # of computing to keeping
# Version of the state; incremented when its meaning changes.
_RULES = 1


@runtime_checkable
class Resumable(Protocol):
    """A part of a computation whose state is arrays."""

    def state(self) -> Arrays:
        """Returns the state; shapes and dtypes are the same on all processes."""
        ...

    def restore(self, state: Arrays) -> None:
        """Resumes from a state."""
        ...


class Partial:
    """State of a computation, kept from time to time in one file for all processes.

    It resumes, bit for bit, on the same number of processes and devices; if the file is
    damaged, or of another computation or environment, it begins anew. As a context
    manager it also keeps the state when a signal ends the computation.
    """

    def __init__(self, directory: str | Path, key: Key) -> None:
        """Takes the directory, as in `array_cache`, and what the result depends on."""
        self._directory = directory
        environment = {
            "rules": _RULES,
            "processes": jax.process_count(),
            "devices": jax.device_count(),
            "device": jax.devices()[0].device_kind,
            "versions": provenance.versions(),
            "numerics": provenance.numerics(),
        }
        self._key = key | {"environment": environment}
        self._parts: dict[str, Resumable] = {}
        self._since, self._cost = time.monotonic(), 0.0

    def join(self, name: str, part: Resumable) -> None:
        """Adds a part of the computation; resumes it if its state was kept."""
        self._parts[name] = part
        if state := _within(self._restored, name):
            part.restore(state)

    def keeping(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """Returns `advance` that also keeps the state if it is time to."""

        def advance_and_keep(count: int) -> None:
            advance(count)
            if parallel.broadcast_from_zero(self._is_due()):
                self.keep()

        return advance_and_keep

    def keep(self) -> None:
        """Writes the state; if that fails, prints the reason and continues."""
        began = time.monotonic()
        states = {name: part.state() for name, part in self._parts.items()}
        everywhere = parallel.each_process(_flat(states))
        if jax.process_index() == 0:
            arrays = _flat({str(i): part for i, part in enumerate(everywhere)})
            array_cache.save(self._directory, self._key, arrays, "not kept")
        self._since = time.monotonic()
        self._cost = self._since - began

    def remove(self) -> None:
        """Removes the file, once the results are stored."""
        if jax.process_index() == 0:
            array_cache.remove(self._directory, self._key)

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and issubclass(kind, Interrupted):
            self.keep()

    @functools.cached_property
    def _restored(self) -> Arrays:
        """This process's arrays in the file, if all processes have read the same."""
        arrays = array_cache.load(self._directory, self._key) or {}
        digest = int(array_cache.digest_of(arrays)[:7], 16)
        if len(set(parallel.of_all_processes(digest))) > 1:
            return {}
        return _within(arrays, str(jax.process_index()))

    def _is_due(self) -> bool:
        least = max(KEEP_SECONDS, LEAST_RATIO * self._cost)
        return time.monotonic() - self._since >= least


def _flat(trees: dict[str, Arrays]) -> Arrays:
    return {f"{name}/{n}": a for name in trees for n, a in trees[name].items()}


def _within(arrays: Arrays, name: str) -> Arrays:
    prefix = f"{name}/"
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }
