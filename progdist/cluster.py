"""How a process finds and joins the others of its run."""

import re
import socket
from typing import Any

import jax
from absl import flags

from progdist.errors import UsageError, last_line
from progdist.parallel import PeerError

_LOOPBACK = "127.0.0.1", "localhost", "[::1]"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a run on several processes."""
    flags.DEFINE_bool(
        "distributed", False, "Join the processes of a cluster.", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0; else found.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many; else found.", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "process_id", None, "Which one this is; else found.", 0, flag_values=values
    )
    flags.DEFINE_integer(
        "heartbeat_seconds",
        60,
        "Time after which a process that is not heard of is lost.",
        1,
        flag_values=values,
    )


def join(values: flags.FlagValues) -> None:
    """Joins the processes that the flags, or TPU, SLURM, … describe.

    Raises:
      UsageError: if they describe none.
      PeerError: if the others do not come.
    """
    given: dict[str, Any] = {
        name: values[name].value
        for name in ("coordinator", "num_processes", "process_id")
    }
    if not values["distributed"].value:
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"--{name} goes with --distributed")
        return
    _check(**given)
    coordinator = given["coordinator"] or ""
    is_local = coordinator.rsplit(":", 1)[0] in _LOOPBACK
    if given["process_id"] == 0:
        _check_free(coordinator)
    seconds: Any = values["heartbeat_seconds"].value
    try:
        jax.distributed.initialize(
            coordinator or None,
            given["num_processes"],
            given["process_id"],
            coordinator_bind_address=coordinator if is_local else None,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except ValueError as error:
        raise UsageError(f"--distributed: {last_line(error)}") from None
    except RuntimeError as error:  # which another attempt may not meet again
        raise PeerError(f"the processes did not meet: {last_line(error)}") from None


def _check(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise UsageError(
            "--coordinator, --num_processes and --process_id go together; without "
            "them the cluster is found"
        )
    port = re.fullmatch(r"\S+:(\d+)", coordinator or "any:1")
    if not port or not 0 < int(port[1]) < 1 << 16:
        raise UsageError(f"--coordinator={coordinator}: must be HOST:PORT")
    if num_processes and process_id is not None and process_id >= num_processes:
        raise UsageError(
            f"--process_id={process_id}: must be below --num_processes={num_processes}"
        )


def _check_free(coordinator: str) -> None:
    """Refuses a port that is taken; JAX would die of it without a word."""
    host, _, port = coordinator.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if host in _LOOPBACK[:2] else "", int(port)))
        except OSError as error:
            raise UsageError(
                f"--coordinator={coordinator}: {error.strerror}; give another port"
            ) from None
