"""Setup of a run on several processes."""

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
        "distributed", False, "Join the other processes of a run.", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0; detected if omitted.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Number of processes; detected if omitted.",
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Number of this process; detected if omitted.",
        0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "heartbeat_seconds",
        60,
        "Seconds without a sign of life after which a process counts as lost.",
        1,
        flag_values=values,
    )


def join(values: flags.FlagValues) -> None:
    """Joins the processes described by the flags or the environment (TPU, SLURM).

    Raises:
      UsageError: if neither describes any.
      PeerError: if the other processes do not arrive.
    """
    address: dict[str, Any] = {
        name: values[name].value
        for name in ("coordinator", "num_processes", "process_id")
    }
    if not values["distributed"].value:
        for name, value in address.items():
            if value is not None:
                raise UsageError(f"--{name}: needs --distributed")
        return
    _check(**address)
    coordinator = address["coordinator"] or ""
    is_local = coordinator.rsplit(":", 1)[0] in _LOOPBACK
    if address["process_id"] == 0:
        _check_free(coordinator)
    seconds: Any = values["heartbeat_seconds"].value
    try:
        jax.distributed.initialize(
            coordinator or None,
            address["num_processes"],
            address["process_id"],
            coordinator_bind_address=coordinator if is_local else None,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except ValueError as error:
        raise UsageError(f"--distributed: {last_line(error)}") from None
    except RuntimeError as error:  # another attempt may succeed
        raise PeerError(f"the processes did not connect: {last_line(error)}") from None


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
