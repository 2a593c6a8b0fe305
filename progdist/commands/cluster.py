"""Setup of a run on several processes."""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # its key-value store has no public API

from progdist.errors import (
    UsageError,
    default_signals,
    last_line,
    on_leaving,
    say,
)
from progdist.parallel import PeerError, failure_of

ANNOUNCE_SECONDS = 10.0
RESOLVE_SECONDS = 5.0
_HEAR_SECONDS = 0.5
_last_word = threading.Lock()  # held by the thread that reports the failure
_FAILURE = "progdist/failure"  # key at the coordinator; value "PROCESS CODE"
_LOOPBACK = "127.0.0.1", "localhost", "[::1]"
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
# What JAX raises for an environment that describes no cluster, or a wrong one.
_NOT_DETECTED = ValueError, TypeError, LookupError


def join(values: Mapping[str, Any]) -> None:
    """Joins the processes described by the flags or the environment (TPU, SLURM).

    Raises:
      UsageError: if neither describes any.
      PeerError: if the other processes do not arrive.
    """
    address: dict[str, Any] = {
        name: values[name] for name in ("coordinator", "num_processes", "process_id")
    }
    if not values["distributed"]:
        for name, value in address.items():
            if value is not None:
                raise UsageError(f"--{name}: needs --distributed")
        return
    _check(**address)
    coordinator = address["coordinator"] or ""
    if address["process_id"] == 0:
        _check_free(coordinator)
    elif coordinator:
        _check_known(coordinator)
    with default_signals(), _announced(coordinator, address["num_processes"]):
        _initialize(coordinator, address, values["heartbeat_seconds"])
    on_leaving(_tell_others)
    threading.Thread(target=_hear_others, daemon=True).start()


def _tell_others(text: str, code: int) -> int:
    """Says why this process fails and tells the others.

    Returns:
      The exit code of the process that failed first.
    """
    is_loss = code == PeerError.exit_code
    if is_loss:  # the one that was lost may have said why
        time.sleep(2 * _HEAR_SECONDS)
    failure = _failure()
    if _last_word.acquire(blocking=False):
        say(_message(failure[0]) if failure and is_loss else text)
    if failure is None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was faster
            here = distributed.global_state.process_id
            _client().key_value_set(_FAILURE, f"{here} {code}")
        failure = _failure()
    _let_others_leave()
    return failure[1] if failure else code


def _hear_others() -> None:
    """Ends this process with the exit code of another one that fails."""
    while jax.distributed.is_initialized():
        failure = _failure()
        if failure and _last_word.acquire(blocking=False):
            say(_message(failure[0]))
            _let_others_leave()
            os._exit(failure[1])
        time.sleep(_HEAR_SECONDS)


def _message(process: int) -> str:
    return f"progdist: {failure_of(process)}\n"


def _let_others_leave() -> None:
    """Waits until the others know; JAX kills them if process 0 exits first."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what follows would hide the reason
    time.sleep((2 if distributed.global_state.process_id else 4) * _HEAR_SECONDS)


def _failure() -> tuple[int, int] | None:
    """Returns process and exit code of the first failure; None if there is none."""
    try:
        process, code = _client().key_value_try_get(_FAILURE).split()
    except (AttributeError, jax.errors.JaxRuntimeError):  # also if process 0 is gone
        return None
    return int(process), int(code)


def _client() -> Any:
    return distributed.global_state.client


def _initialize(coordinator: str, address: dict[str, Any], seconds: int) -> None:
    is_local = coordinator.rsplit(":", 1)[0] in _LOOPBACK
    try:
        jax.distributed.initialize(
            coordinator or None,
            address["num_processes"],
            address["process_id"],
            coordinator_bind_address=coordinator if is_local else None,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except _NOT_DETECTED as error:
        raise UsageError(
            f"--distributed: {_missing_variables() or last_line(error)}; or pass "
            "--coordinator, --num_processes and --process_id"
        ) from None
    except RuntimeError as error:
        if "must be called before" in str(error):
            raise UsageError("--distributed: JAX has opened its devices") from None
        # Another attempt may succeed.
        raise PeerError(f"the processes did not connect: {last_line(error)}") from None


def _missing_variables() -> str:
    """Describes an incomplete environment of SLURM; "" if it is none or complete."""
    missing = [name for name in _SLURM if name not in os.environ]
    if not 0 < len(missing) < len(_SLURM):
        return ""
    return f"start it by srun, since {', '.join(missing)} is not set"


@contextlib.contextmanager
def _announced(coordinator: str, num_processes: int | None) -> Iterator[None]:
    """Says after a while for how many processes this one waits, and where."""
    others = f"{num_processes - 1} other processes" if num_processes else "the others"
    text = f"progdist: waiting for {others} of the run"
    text += f" at {coordinator}" if coordinator else ""
    timer = threading.Timer(ANNOUNCE_SECONDS, say, [f"{text}\n"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    values = coordinator, num_processes, process_id
    if None in values and values != (None, None, None):
        raise UsageError(
            "--coordinator, --num_processes and --process_id go together; omit all "
            "three to detect the cluster"
        )
    port = re.fullmatch(r"\S+:(\d+)", coordinator or "any:1")
    if not port or not 0 < int(port[1]) < 1 << 16:
        raise UsageError(f"--coordinator={coordinator}: must be HOST:PORT")
    if num_processes and process_id is not None and process_id >= num_processes:
        raise UsageError(
            f"--process_id={process_id}: must be below --num_processes={num_processes}"
        )


def _check_free(coordinator: str) -> None:
    """Refuses a port in use, on which JAX would die without a message."""
    host, _, port = coordinator.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if host in _LOOPBACK[:2] else "", int(port)))
        except OSError as error:
            raise UsageError(
                f"--coordinator={coordinator}: {error.strerror}; choose another port"
            ) from None


def _check_known(coordinator: str) -> None:
    """Refuses a host without an address; one that starts may get it in a moment."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), int(port))
            return
        except OSError as error:
            if time.monotonic() > end:
                reason = error.strerror
                raise PeerError(f"--coordinator={coordinator}: {reason}") from None
        time.sleep(0.5)
