"""Ends a run twice in each of its measurements, and compares it with one left alone.

  python -m tests.measurements [WORKDIR]

The run is one of CIFAR-10 at a small size, from 8192 steps. In each measurement it is
ended by SIGKILL, then by SIGTERM, after a third of a batch each, and started again by
the same command. In the end models, rows and samples must equal, bit for bit, those
of the run left alone. Prints a line per start, the share of network calls that were
made again, and the longest time without a sign of life while it measures: a line, or a
beat of the watchdog. WORKDIR keeps both runs.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from progdist import main as program
from progdist.errors import exit_with
from progdist.evaluate import evaluator, partial
from progdist.evaluate.partial import Partial
from progdist.trainer.preemption import Preemption, Watchdog
from progdist.workdir import layout
from tests import faults
from tests.killed import before

SHARE = 1 / 3  # of a batch that each start draws before it is ended
UPDATES = 20  # of a phase
FLAGS = [
    "--config=configs/cifar10.py:smoke",
    "--config.cpu_devices=1",
    "--config.data.name=arrays",
    "--config.data.image_shape=(32, 32, 3)",
    "--config.net.ch_mult=(1, 1)",
    "--config.net.patch_size=4",
    "--config.net.attn_resolutions=()",
    f"--config.base.num_updates={UPDATES}",
    f"--config.distill.num_updates={UPDATES}",
    "--config.distill.start_steps=8192",
    "--config.distill.end_steps=4096",
    "--config.distill.long_rounds=0",
    "--config.evaluation.max_steps=8192",
    "--config.evaluation.num_samples=4",
    "--config.evaluation.batch_size=2",
    "--config.evaluation.grid_images=3",
]
DRAWN = [0.0]  # batches of this measurement, by this process
MEASUREMENTS = 5  # two of the teacher, three after the round


class Run(NamedTuple):
    """A start of the run: how it ended, what it drew, and its longest silence."""

    code: int
    said: str
    calls: int
    silence: float


def start(workdir: Path, number: int = 0, signum: int = 0) -> Run:
    """Starts the run; ends it by the signal in that measurement, if any."""
    log = workdir.with_suffix(".log")
    log.write_text("")
    lines = []
    data = workdir.with_name("images.npy")
    flags = [*FLAGS, f"--config.data.dir={data}", f"--workdir={workdir}"]
    words = ["child", str(log), str(number), str(signum), *flags]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.measurements", *words],
        cwd=faults.ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        for line in process.stderr:
            lines.append((time.monotonic(), line))
    events = [tuple(map(float, row.split())) for row in log.read_text().splitlines()]
    pieces = [t for t, calls in events if calls]
    begin, end = (pieces[0], pieces[-1]) if pieces else (0.0, 0.0)
    signs = sorted(t for t, _ in [*lines, *events] if begin <= t <= end)
    silence = max((b - a for a, b in itertools.pairwise(signs)), default=0.0)
    said = "".join(line for _, line in lines)
    return Run(process.returncode, said, int(sum(n for _, n in events)), silence)


def observe(log: Path) -> None:
    """Writes the time of each beat, and of each piece with its network calls."""
    file = log.open("a", buffering=1)

    def note(calls: int) -> None:
        file.write(f"{time.monotonic()} {calls}\n")

    make = evaluator.make_sampler

    def make_observed(*args):
        sampler = make(*args)

        def advance(*inputs):
            num_calls, first, last = inputs[-1]
            # A compilation draws a single step of its own.
            calls = last - first if num_calls > sampler.calls_per_step else 0
            note(calls)
            DRAWN[0] += calls / num_calls
            return sampler.advance(*inputs)

        return sampler._replace(advance=advance)

    evaluator.make_sampler = make_observed
    before(Watchdog, "beat", lambda *_: note(0))


def end_in(number: int, signum: int) -> None:
    """Sends this process a signal in the measurement of that number, from 1."""
    measurement = [0]

    def enter(state: Partial) -> None:
        if Path(state._directory).name == layout.MEASURING:
            measurement[0], DRAWN[0] = measurement[0] + 1, 0.0

    def check(_: Preemption) -> None:
        if measurement[0] == number and DRAWN[0] >= SHARE:
            DRAWN[0] = 0.0
            os.kill(os.getpid(), signum)
            time.sleep(0.3)  # until it is heard

    before(Partial, "__enter__", enter)
    before(Preemption, "check", check)
    if signum == signal.SIGKILL:
        partial.KEEP_SECONDS = partial.LEAST_RATIO = 0.0


def compare(one: Path, other: Path) -> list[str]:
    """Returns what differs between two finished runs."""
    differs = faults.differences(one, other, 2 * UPDATES)
    for path in sorted((one / "samples").glob("*_??.npz")):
        with np.load(path) as ours, np.load(other / "samples" / path.name) as theirs:
            same = all(np.array_equal(ours[n], theirs[n]) for n in ours.files)
        differs += [] if same else [path.name]
    left = other / layout.MEASURING
    return differs + ([left.name] if left.exists() else [])


def main(argv: list[str]) -> int:
    """Returns 0 if all is as it should be."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(argv[1] if argv[1:] else name)
        runs.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
        np.save(runs / "images.npy", images)
        alone, workdir = start(runs / "alone"), runs / "interrupted"
        print(f"alone: code {alone.code}, {alone.silence:.1f} s silent", flush=True)
        ends = [(1 + (k > 0), signal.SIGKILL) for k in range(MEASUREMENTS)]
        places = [p for end in ends for p in (end, (1, signal.SIGTERM))]
        found = []
        for number, (which, signum) in enumerate(places, start=2):
            found.append(start(workdir, which, signum))
            wrong = found[-1].code not in (-signum, 128 + signum)
            print(
                f"{signal.Signals(signum).name} in measurement {number // 2}: code "
                f"{found[-1].code}, {found[-1].silence:.1f} s silent"
                f"{found[-1].said * wrong}",
                flush=True,
            )
        found.append(start(workdir))
        differs = compare(runs / "alone", workdir)
    again = sum(run.calls for run in found) / alone.calls - 1
    kept = [r.code in (-signal.SIGKILL, 128 + signal.SIGTERM) for r in found[:-1]]
    print(
        f"{sum(kept)} of {len(places)} ended within a measurement; in the end "
        f"{', '.join(differs) or 'bit-equal'}; network calls made again: {again:.1%}; "
        f"longest silence {max(run.silence for run in [alone, *found]):.1f} s"
    )
    return int(bool(differs) or not all(kept) or bool(found[-1].code))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        log, number, signum = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
        observe(log)
        if signum:
            end_in(number, signum)
        exit_with(program.main, ["progdist", *sys.argv[5:]])
    else:
        sys.exit(main(sys.argv))
