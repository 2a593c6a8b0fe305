"""Interrupts one run by signals at twenty places, and compares it with one left alone.

  python -m tests.interrupts [WORKDIR]

The images have 32x32x3 pixels, so that a Fréchet distance takes a minute. Each start of
the run is sent a signal at one place, in turn SIGTERM, SIGINT, SIGHUP and SIGUSR1, and
must end within 10 seconds and a write. In the end the run must equal, bit for bit, the
one that was left alone. Prints a line a place; WORKDIR keeps both runs.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests import faults
from tests.waiting import text_of

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
UPDATES = 100  # of a phase; there are two
IMAGES = 3200  # more than pixels, so that covariances have full rank
FLAGS = [
    "--config=configs/digits.py:smoke",
    "--config.data.name=arrays",
    "--config.data.image_shape=(32, 32, 3)",
    f"--config.base.num_updates={UPDATES}",
    f"--config.distill.num_updates={UPDATES}",
    "--config.distill.start_steps=2",
    "--config.distill.long_rounds=0",
    "--config.distill.ema_decay=0.9",
    "--config.log_every=10",
    "--config.save_every=50",
    f"--config.evaluation.num_samples={IMAGES}",
    "--config.evaluation.batch_size=64",
]
MOST_SECONDS = 10.0


class Place(NamedTuple):
    """A place in a run: some seconds after so many lines of a file.

    Without a file, after the start of the process.
    """

    file: str
    lines: int
    seconds: float

    def __str__(self) -> str:
        where = f"line {self.lines} of {self.file}" if self.file else "the start"
        return f"{self.seconds:g} s after {where}"


ROWS, VALUES = "metrics.jsonl", "eval.jsonl"
PLACES = [
    *(Place("", 0, seconds) for seconds in (0.5, 2, 4, 7)),
    *(Place(ROWS, line, 0.1) for line in (1, 3, 6)),
    *(Place(ROWS, 10, seconds) for seconds in (0, 1, 4, 10, 20)),
    Place(VALUES, 1, 0.5),
    Place(VALUES, 2, 0),
    *(Place(ROWS, line, 0.1) for line in (12, 17)),
    *(Place(ROWS, 20, seconds) for seconds in (0.3, 6)),
    Place(VALUES, 3, 2),
    Place(VALUES, 5, 0),
]


def command(workdir: Path) -> list[str]:
    """Returns the command of the run, whose data are beside its workdir."""
    start = [sys.executable, "-m", "progdist.main", *FLAGS]
    data = workdir.with_name("images.npy")
    return [*start, f"--config.data.dir={data}", f"--workdir={workdir}"]


def interrupt(workdir: Path, place: Place, signum: signal.Signals) -> str:
    """Starts the run, interrupts it at the place, and returns what was wrong."""
    with subprocess.Popen(
        command(workdir), cwd=faults.ROOT, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            _wait(run, workdir, place)
            began = time.monotonic()
            run.send_signal(signum)
            _, said = run.communicate(timeout=120)
        finally:
            run.kill()
    seconds = time.monotonic() - began
    # Before its first line a command is ended by the signal itself.
    # After its last evaluation it may draw the figures first, and is done.
    is_last = place == PLACES[-1]
    ended = run.returncode in (128 + signum, -signum, *([0] if is_last else []))
    wrong = "" if ended else f"exit code {run.returncode}: {said[-300:]}"
    if seconds > MOST_SECONDS:
        wrong += f" took {seconds:.1f} s"
    print(
        f"{signum.name:8} {place!s:40} {seconds:5.1f} s  {wrong or 'ended'}", flush=True
    )
    return wrong


def differences(one: Path, other: Path) -> list[str]:
    """Returns what differs between two finished runs."""
    return faults.differences(one, other, 2 * UPDATES)


def main(argv: list[str]) -> int:
    """Returns 0 if all is as it should be."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(argv[1] if argv[1:] else name)
        alone, workdir = runs / "alone", runs / "interrupted"
        runs.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
        np.save(runs / "images.npy", images)
        subprocess.run(command(alone), cwd=faults.ROOT, check=True)
        pairs = [(p, SIGNALS[k % len(SIGNALS)]) for k, p in enumerate(PLACES)]
        wrong = [said for pair in pairs if (said := interrupt(workdir, *pair))]
        subprocess.run(command(workdir), cwd=faults.ROOT, check=True)
        differs = differences(alone, workdir)
    print(
        f"{len(PLACES) - len(wrong)} of {len(PLACES)} ended in time; in the end "
        f"{', '.join(differs) or 'bit-equal'}"
    )
    return int(bool(wrong or differs))


def _wait(run: subprocess.Popen, workdir: Path, place: Place) -> None:
    path = workdir / place.file if place.file else None
    while path and text_of(path).count("\n") < place.lines:
        if run.poll() is not None:
            return
        time.sleep(0.01)
    time.sleep(place.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
