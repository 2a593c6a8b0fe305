"""Runs the trainer as several processes on this machine.

  python -m launch.local --num_processes=2 -- --config=digits --workdir=W

Arguments after -- go to progdist train. launch/README.md explains signals, failures and
restarts.
"""

import contextlib
import math
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from subprocess import DEVNULL, Popen
from typing import NamedTuple

from absl import flags

from launch import command_line

FLAGS = flags.FlagValues()
_integer = partial(flags.DEFINE_integer, flag_values=FLAGS)
_integer("num_processes", 2, "Number of processes.", 1)
_integer("gpus_per_process", 0, "GPUs per process; 0 to run on the CPU.", 0)
_integer("restart", 0, "Maximum number of restarts after a loss or a preemption.", 0)
_integer("heartbeat_seconds", 10, "Time until a lost process is detected.", 1)
_integer("port", 0, "Port of process 0 on loopback; 0 for a free one.", 0, 65535)
_float = partial(flags.DEFINE_float, flag_values=FLAGS)
_float("grace_seconds", 30, "Time to exit after a signal or another's failure.", 0)
flags.DEFINE_bool("dry_run", False, "Only print the commands.", flag_values=FLAGS)

_TICK_SECONDS = 0.1
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# Classes of exit codes: bad input, diverged or not written; any other; consequences of
# losing another process (5, and SIGABRT from JAX).
_PRIORITIES = {2: 0, 3: 0, 4: 0, 5: 2, 128 + signal.SIGABRT: 2}


class End(NamedTuple):
    """End of a process; `code` as in a shell, `killed` if the launcher killed it."""

    rank: int
    code: int
    killed: bool = False

    def __str__(self) -> str:
        if self.killed:
            return f"process {self.rank} was killed after the others"
        return f"process {self.rank} ended with {self.code}"


def main(argv: list[str]) -> int:
    """Runs the processes, and restarts them after a loss; returns the exit code."""
    reserved = *command_line.RESERVED, "heartbeat_seconds"
    arguments = command_line.parse(FLAGS, argv, __doc__, reserved)
    if FLAGS.dry_run:
        print("\n".join(map(shlex.join, make_commands(arguments))))
        return 0
    received: list[int] = []
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _: received.append(number))
    restarts = FLAGS.restart
    while True:
        ends = attend(make_commands(arguments), received, FLAGS.grace_seconds)
        code = verdict(ends)
        if code:
            failures = "; ".join(str(end) for end in ends if end.code)
            _say(failures)
        if received or not restarts or not is_worth_restarting(code):
            return code
        restarts -= 1
        _say(f"restarting, {restarts} restarts left")


def make_commands(arguments: Sequence[str]) -> list[list[str]]:
    """Returns the command of each process, on its GPUs or its share of the cores."""
    port, num_processes = FLAGS.port or free_port(), FLAGS.num_processes
    return [
        [
            *_make_prefix(rank, num_processes, FLAGS.gpus_per_process),
            *(sys.executable, "-m", "progdist.main", *arguments),
            *("--distributed", f"--coordinator=127.0.0.1:{port}"),
            *(f"--num_processes={num_processes}", f"--process_id={rank}"),
            f"--heartbeat_seconds={FLAGS.heartbeat_seconds}",
        ]
        for rank in range(num_processes)
    ]


def _make_prefix(rank: int, num_processes: int, num_gpus: int) -> list[str]:
    """Returns the wrapper that sets devices, output label, lifetime and cores."""
    gpus = ",".join(map(str, range(rank * num_gpus, (rank + 1) * num_gpus)))
    # Two processes cannot share a GPU: each takes most of its memory.
    words = ["env", f"CUDA_VISIBLE_DEVICES={gpus}" if gpus else "JAX_PLATFORMS=cpu"]
    if rank:
        label = f'exec "$@" > >(exec sed -u "s/^/[{rank}] /" >&2) 2>&1'
        words += ["bash", "-c", label, "launch"]
    if shutil.which("setpriv") and shutil.which("taskset"):  # on Linux
        cores = share(sorted(os.sched_getaffinity(0)), rank, num_processes)
        words += ["setpriv", "--pdeathsig=KILL"]
        words += ["taskset", "--cpu-list", ",".join(map(str, cores))]
    return words


def share(cores: Sequence[int], rank: int, num_processes: int) -> Sequence[int]:
    """Returns the cores of one process: an equal share, or one shared core."""
    size = max(1, len(cores) // num_processes)
    start = rank * size % len(cores)
    return cores[start : start + size]


def free_port() -> int:
    """Returns a free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def attend(
    commands: Sequence[Sequence[str]], received: Sequence[int], grace_seconds: float
) -> list[End]:
    """Runs one command per rank until all have ended; returns the ends, in order.

    A signal handler appends to `received`. The first signal is passed on; the second
    kills the processes. So does the end of the grace period, which begins with the
    first signal or failure.
    """
    # In groups of their own, or Ctrl-C would also reach them from the terminal.
    start = partial(Popen, stdin=DEVNULL, process_group=0)
    running = {rank: start(command) for rank, command in enumerate(commands)}
    ends: list[End] = []
    deadline, sent = math.inf, 0
    while running:
        time.sleep(_TICK_SECONDS)
        for rank in [rank for rank, each in running.items() if each.poll() is not None]:
            code = running.pop(rank).returncode
            code = code if code >= 0 else 128 - code
            ends.append(End(rank, code, killed=sent == signal.SIGKILL))
        if received or any(end.code for end in ends):
            deadline = min(deadline, time.monotonic() + grace_seconds)
        number = received[0] if received else sent
        if len(received) > 1 or time.monotonic() >= deadline:
            number = signal.SIGKILL
        for process in running.values() if number != sent else ():
            process.send_signal(number)
        sent = number
    return ends


def verdict(ends: Sequence[End]) -> int:
    """Returns the exit code of the process that caused the others to end.

    Among equals it is the lowest rank if the cause is definite, else the first to end.
    """

    def key(end: End) -> tuple[bool, int, int]:
        priority = _PRIORITIES.get(end.code, 1)
        return end.killed, priority, 0 if priority else end.rank

    return min((end for end in ends if end.code), key=key, default=End(0, 0)).code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of stderr is gone
        print(f"launch: {text}", file=sys.stderr, flush=True)


def is_worth_restarting(code: int) -> bool:
    """Returns whether the code means a lost or preempted process."""
    return code == 5 or (code > 128 and code != 128 + signal.SIGINT)


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
