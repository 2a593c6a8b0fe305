"""Ends runs at twenty places, resumes them, and compares with one left alone.

  python -m tests.faults

prints a line a place. Each run is killed once, or stopped by a signal, by step, and
started again by the same command; then parameters, average, optimiser, teacher and
progress of its last checkpoint, the models of all phases, and its rows of numbers must
be the same, bit for bit. Three mutants, which lose a part of the checkpoint, must be
found out.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from progdist import checkpoint

ROOT = Path(__file__).parents[1]
# With all that a run can keep or draw: averages, dropout, mirrored images.
FLAGS = [
    "--config=configs/digits.py:smoke",
    "--config.cpu_devices=1",
    "--config.data.flip=True",
    "--config.base.dropout=0.1",
    "--config.distill.dropout=0.1",
    "--config.distill.ema_decay=0.9",
]
QUIET = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
# The signals that stop a run, in turn.
STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
# The phases end at updates 10, 20 and 30, and every fifth is saved.
PLACES = [
    ("compilation", 1),
    ("compilation", 2),
    ("update", 1),
    ("update", 8),
    ("update", 10),
    ("update", 11),
    ("update", 17),
    ("update", 21),
    ("update", 29),
    ("write", 5),
    ("write", 10),
    ("write", 15),
    ("write", 30),
    ("seal", 25),
    ("row", 15),
    ("evaluation", 1),
    ("evaluation", 7),
    ("model", 1),
    ("model", 3),
    ("swap", 2),
]
# Asked to stop, in the middle of an interval between rows, and while it samples.
POLITE = [("terminated", 7), ("terminated_sampling", 3)]
# Killed where the lost part still matters.
MUTANTS = [("ema", "update", 8), ("optimizer", "update", 17), ("teacher", "update", 17)]


def command(workdir, place="nowhere", number=0, *mutant, flags=()):
    words = [place, str(number), *mutant]
    start = [sys.executable, "-m", "tests.killed", *words, "--"]
    return [*start, *FLAGS, f"--workdir={workdir}", *flags]


def start(*args):
    return subprocess.run(
        command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def run_alone(workdir):
    """Returns the workdir of a run that nothing disturbs."""
    done = start(workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def rows(workdir, name):
    """Returns the rows of a file, without times."""
    lines = (workdir / name).read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for row in found:
        for name in ("steps_per_second", "tflops_per_second", "milliseconds"):
            row.pop(name, None)
    return found


def differences(one, other, updates=30):
    """Names of what differs between two finished runs."""
    paths = [run / "checkpoints" / str(updates) for run in (one, other)]
    last = [checkpoint.fingerprint(path) for path in paths]
    found = [name for name in last[0] if last[0][name] != last[1][name]]
    for model in sorted(path.name for path in (one / "models").iterdir()):
        cards = [checkpoint.read_card(run / "models" / model) for run in (one, other)]
        found += [model] if cards[0] != cards[1] else []
    for name in ("metrics.jsonl", "eval.jsonl"):
        found += [name] if rows(one, name) != rows(other, name) else []
    return found


def kill_and_resume(alone, workdir, place, number, mutant="", signum=signal.SIGKILL):
    """Returns what differs in the end, from a run that was left alone."""
    if "terminated" in place:
        signum = signal.SIGTERM
    killed = start(workdir, place, number, f"--signal={signum.name}")
    is_killed = signum == signal.SIGKILL
    if killed.returncode != (-signum if is_killed else 128 + signum):
        return [f"did not end: {killed.returncode} {killed.stderr[-500:]}"]
    resumed = start(workdir, "nowhere", 0, *([f"--mutant={mutant}"] if mutant else []))
    if resumed.returncode:
        return [f"did not resume: {resumed.stderr[-500:]}"]
    return differences(alone, workdir)


def main():
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as name,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        runs = Path(name)
        alone = run_alone(runs / "alone")
        jobs = [(f"{place} {k}", place, k) for place, k in PLACES + POLITE]
        jobs += [
            (f"{place} {k} {signum.name}", place, k, "", signum)
            for (place, k), signum in zip(PLACES, itertools.cycle(STOPS), strict=False)
        ]
        jobs += [(f"without {m}", place, k, m) for m, place, k in MUTANTS]
        found = pool.map(
            lambda job: kill_and_resume(alone, runs / job[0], *job[1:]), jobs
        )
        wrong = 0
        for (title, *_), differs in zip(jobs, found, strict=True):
            wrong += bool(differs) != title.startswith("without")
            print(f"{title:22} {', '.join(differs) or 'bit-equal'}", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(jobs) - wrong} of {len(jobs)} as they should be, {seconds:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
