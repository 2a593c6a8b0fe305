"""Runs the trainer as several processes on this machine.

  python -m launch.local --num_processes=2 -- --config=configs/digits.py --workdir=W

What stands after -- goes to progdist.main. The processes find each other on the
loopback interface. The first one has the terminal; what the others say has their number
in front. SIGTERM and Ctrl-C go to all of them, who save and end; a second one kills.
The exit code is that of the process that was the cause.
"""

import os
import shutil
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from launch import command_line
from launch.group import End, Group, Signals, is_worth_restarting, verdict

FLAGS = flags.FlagValues()
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", 2, "How many.", lower_bound=1, flag_values=FLAGS
)
_GPUS_PER_PROCESS = flags.DEFINE_integer(
    "gpus_per_process",
    0,
    "How many of the machine's GPUs each process gets; 0: they compute on the CPU.",
    lower_bound=0,
    flag_values=FLAGS,
)
_RESTART = flags.DEFINE_integer(
    "restart",
    0,
    "How often to start all again where one was lost or preempted.",
    lower_bound=0,
    flag_values=FLAGS,
)
_GRACE_SECONDS = flags.DEFINE_float(
    "grace_seconds",
    30.0,
    "From a signal, or a failure of one, to the killing of those that are left.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
    "heartbeat_seconds",
    10,
    "How soon a lost process is noticed by the others.",
    lower_bound=1,
    flag_values=FLAGS,
)
_PORT = flags.DEFINE_integer(
    "port",
    0,
    "Where the first process listens, on loopback; 0: any that is free.",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only print the commands, one a line.", flag_values=FLAGS
)
_OURS = "distributed", "coordinator", "num_processes", "process_id", "heartbeat_seconds"


class Plan(NamedTuple):
    """What is run: how many processes, each with these arguments and so many GPUs."""

    num_processes: int
    arguments: list[str]
    heartbeat_seconds: int
    gpus_per_process: int


def main(argv: list[str]) -> int:
    """Runs what the flags describe; returns the exit code."""
    flags_of_ours, arguments = command_line.split(argv)
    command_line.parse(FLAGS, flags_of_ours, __doc__)
    command_line.check_arguments(arguments, _OURS)
    plan = Plan(
        _NUM_PROCESSES.value,
        arguments,
        _HEARTBEAT_SECONDS.value,
        _GPUS_PER_PROCESS.value,
    )
    port, grace = _PORT.value, _GRACE_SECONDS.value
    if _DRY_RUN.value:
        commands = make_commands(plan, port or free_port(), _cores())
        for command, environment in zip(commands, make_environments(plan), strict=True):
            print(command_line.quoted(command, environment))
        return 0
    return run(plan, port, grace, _RESTART.value)


def run(plan: Plan, port: int, grace_seconds: float, restart: int) -> int:
    """Runs the processes, and again where one was lost; returns the exit code."""
    with Signals() as signals:
        while True:
            commands = make_commands(plan, port or free_port(), _cores())
            group = Group(commands, make_environments(plan))
            ends = group.attend(signals, grace_seconds)
            code = verdict(ends)
            if code:
                _say(_describe(ends))
            if not restart or signals.received or not is_worth_restarting(code):
                return code
            restart -= 1
            _say(f"starting all again ({restart} more times where needed)")


def make_commands(plan: Plan, port: int, cores: Sequence[int]) -> list[list[str]]:
    """Returns the command of each process, on its share of the cores."""
    commands = []
    for rank in range(plan.num_processes):
        commands.append(
            [
                *_on_cores(share(cores, rank, plan.num_processes)),
                *(sys.executable, "-m", "progdist.main"),
                *plan.arguments,
                "--distributed",
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={plan.num_processes}",
                f"--process_id={rank}",
                f"--heartbeat_seconds={plan.heartbeat_seconds}",
            ]
        )
    return commands


def make_environments(plan: Plan) -> list[dict[str, str]]:
    """Returns what is added to the environment of each process: its devices."""
    num = plan.gpus_per_process
    if not num:
        # Two processes cannot share a GPU: each takes most of its memory.
        return [{"JAX_PLATFORMS": "cpu"}] * plan.num_processes
    starts = range(0, num * plan.num_processes, num)
    lists = [",".join(map(str, range(start, start + num))) for start in starts]
    return [{"CUDA_VISIBLE_DEVICES": gpus} for gpus in lists]


def share(cores: Sequence[int], rank: int, num_processes: int) -> Sequence[int]:
    """Returns the cores of one process: equal parts, or one that others have too."""
    size = max(1, len(cores) // num_processes)
    start = rank * size % len(cores)
    return cores[start : start + size]


def free_port() -> int:
    """Returns a port of the loopback interface that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _on_cores(cores: Sequence[int]) -> list[str]:
    """A prefix that keeps a process to some cores, of which it makes its devices."""
    if not shutil.which("taskset"):
        return []
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def _describe(ends: Sequence[End]) -> str:
    failed = [end for end in ends if end.code]
    return "; ".join(
        f"process {end.rank} "
        + ("was killed after the others" if end.dismissed else f"ended with {end.code}")
        for end in failed
    )


def _say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
