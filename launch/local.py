"""Runs the trainer as several processes on this machine.

  python -m launch.local --num_processes=2 -- --config=configs/digits.py --workdir=W

Arguments after -- go to progdist.main. The processes meet on the loopback interface.
Process 0 has the terminal; the output of the others goes to standard error, with the
rank in front of each line. SIGTERM and Ctrl-C reach every process once, which saves and
exits; a second signal kills them all. The exit code is that of the process that failed
by itself, rather than of those that lost it.
"""

import contextlib
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from absl import flags

from launch import command_line

FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, flag_values=FLAGS)
_float = partial(flags.DEFINE_float, flag_values=FLAGS)
_integer("num_processes", 2, "Number of processes.", 1)
_integer("gpus_per_process", 0, "GPUs of each process; 0 to compute on the CPU.", 0)
_integer("restart", 0, "Maximum number of restarts after a loss or a preemption.", 0)
_float("grace_seconds", 30, "Time to exit after a signal, or a failure elsewhere.", 0)
_integer("heartbeat_seconds", 10, "Time until the loss of a process is noticed.", 1)
_integer("port", 0, "Port of process 0 on loopback; 0 for a free one.", 0, 65535)
flags.DEFINE_bool("dry_run", False, "Only print the commands.", flag_values=FLAGS)

_TICK_SECONDS = 0.1
_DEFINITE = 2, 3, 4  # of progdist.main: bad input, diverged, not written
_CONSEQUENCES = 5, 128 + signal.SIGABRT  # of the loss of another process


class End(NamedTuple):
    """How a process ended; `code` as in a shell, `killed` if the launcher killed it."""

    rank: int
    code: int
    killed: bool = False


def main(argv: list[str]) -> int:
    """Runs the processes, again after a loss; returns the exit code."""
    reserved = *command_line.RESERVED, "heartbeat_seconds"
    arguments = command_line.parse_both(FLAGS, argv, __doc__, reserved)
    if FLAGS.dry_run:
        print("\n".join(map(shlex.join, make_commands(arguments))))
        return 0
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    # The trainer does not expect SIGHUP.
    signal.signal(signal.SIGHUP, lambda *_: received.append(signal.SIGTERM))
    restarts = FLAGS.restart
    while True:
        ends = attend(make_commands(arguments), received, FLAGS.grace_seconds)
        code = verdict(ends)
        if code:
            _say("; ".join(_describe(end) for end in ends if end.code))
        if received or not restarts or not is_worth_restarting(code):
            return code
        restarts -= 1
        _say(f"restarting all processes; restarts left: {restarts}")


def make_commands(arguments: Sequence[str]) -> list[list[str]]:
    """Returns the command of each process, on its GPUs or its share of the cores."""
    port, num_processes = FLAGS.port or free_port(), FLAGS.num_processes
    return [
        [
            *("env", _devices(rank, FLAGS.gpus_per_process)),
            *_prefix(rank, num_processes),
            *(sys.executable, "-m", "progdist.main", *arguments),
            *("--distributed", f"--coordinator=127.0.0.1:{port}"),
            *(f"--num_processes={num_processes}", f"--process_id={rank}"),
            f"--heartbeat_seconds={FLAGS.heartbeat_seconds}",
        ]
        for rank in range(num_processes)
    ]


def _devices(rank: int, num_gpus: int) -> str:
    if not num_gpus:  # two processes cannot share a GPU: each takes most of its memory
        return "JAX_PLATFORMS=cpu"
    gpus = range(rank * num_gpus, (rank + 1) * num_gpus)
    return "CUDA_VISIBLE_DEVICES=" + ",".join(map(str, gpus))


def _prefix(rank: int, num_processes: int) -> list[str]:
    """Returns the commands that label the output and, on Linux, confine the process.

    It dies with the launcher, and makes its devices of its own share of the cores.
    """
    label = f'exec "$@" > >(exec sed -u "s/^/[{rank}] /" >&2) 2>&1'
    words = ["bash", "-c", label, "launch"] if rank else []
    if shutil.which("setpriv") and shutil.which("taskset"):
        cores = share(sorted(os.sched_getaffinity(0)), rank, num_processes)
        words += ["setpriv", "--pdeathsig=KILL"]
        words += ["taskset", "--cpu-list", ",".join(map(str, cores))]
    return words


def share(cores: Sequence[int], rank: int, num_processes: int) -> Sequence[int]:
    """Returns the cores of one process: an equal part, or one shared with others."""
    size = max(1, len(cores) // num_processes)
    start = rank * size % len(cores)
    return cores[start : start + size]


def free_port() -> int:
    """Returns a free port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def attend(
    commands: Sequence[Sequence[str]], received: Sequence[int], grace_seconds: float
) -> list[End]:
    """Runs commands side by side until all have ended; returns the ends, in order.

    Args:
      commands: one for each rank.
      received: signals, from a handler; the first is passed on, the second kills.
      grace_seconds: from the first signal or failure until the rest are killed.
    """
    running = {
        # In groups of their own: or Ctrl-C would reach them from the terminal, too.
        rank: subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        for rank, command in enumerate(commands)
    }
    ends: list[End] = []
    deadline, is_passed_on, killed = math.inf, False, False
    while running:
        time.sleep(_TICK_SECONDS)
        for rank in [rank for rank, each in running.items() if each.poll() is not None]:
            code = running.pop(rank).returncode
            ends.append(End(rank, code if code >= 0 else 128 - code, killed))
        if received and not is_passed_on:
            is_passed_on = True
            for process in running.values():
                process.send_signal(received[0])
        if received or any(end.code for end in ends):
            deadline = min(deadline, time.monotonic() + grace_seconds)
        if len(received) > 1 or time.monotonic() >= deadline:
            killed = True
            for process in running.values():
                _kill(process.pid)
    return ends


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def verdict(ends: Sequence[End]) -> int:
    """Returns the exit code of the process that caused the others to end.

    That is the lowest rank that met bad input, diverged or could not write; else the
    first that failed for another reason than losing a process; else the first to fail.
    """

    def key(end: End) -> tuple[bool, int, int]:
        if end.code in _DEFINITE:
            return end.killed, 0, end.rank
        return end.killed, 2 if end.code in _CONSEQUENCES else 1, 0

    return min((end for end in ends if end.code), key=key, default=End(0, 0)).code


def is_worth_restarting(code: int) -> bool:
    """Returns whether the code is that of a lost or preempted process."""
    return code == 5 or (code > 128 and code != 128 + signal.SIGINT)


def _describe(end: End) -> str:
    if end.killed:
        return f"process {end.rank} was killed after the others"
    return f"process {end.rank} ended with {end.code}"


def _say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
