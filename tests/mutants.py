"""Breaks one line of the package at a time, and sees whether the tests notice.

  python -m tests.mutants [--only=PATTERN] [--jobs=N]

Every mutant of `tests/mutants_table.py` whose file or name holds PATTERN is put into a
copy of the tree, and the tests that concern it are run there. Those that are equivalent
to the original are listed, with the reason, and not run. Exit codes: 0 all others were
killed; 1 some survived, or did not run; 2 some no longer apply, or a test fails anyway.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.mutants_table import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
TIMEOUT = 1800
PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "-pno:cacheprovider"]
VERDICTS = {0: "survived", 1: "killed"}  # by pytest's exit code; others are mistakes


def pytest(tree: Path, tests: list[str], jobs: int = 0) -> tuple[int, str]:
    """Returns the exit code and the output; a test that does not end has failed."""
    try:
        done = subprocess.run(
            [*PYTEST, f"-n{jobs}", *(f"tests/{test}" for test in tests)],
            **{"cwd": tree, "env": os.environ | {"PYTHONPATH": str(tree)}},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return 1, "timeout"
    return done.returncode, done.stdout


def verdict(tree: Path, mutant: Mutant, number: int) -> str:
    """Returns what the tests of the tree say to the mutant."""
    path = tree / mutant.file
    original = path.read_text()
    path.write_text(original.replace(mutant.old, mutant.new))
    # Compiled files are told apart by whole seconds and sizes.
    os.utime(path, (number, number))
    code, output = pytest(tree, mutant.tests)
    path.write_text(original)
    return VERDICTS.get(code, f"does not run: {output[-1500:]}")


def judge(mutants: list[Mutant], jobs: int) -> Iterator[tuple[Mutant, str]]:
    """Yields verdicts in the mutants' order; each worker has a tree of its own."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        trees: Queue[Path] = Queue()
        for number in range(jobs):
            ignore = shutil.ignore_patterns(".*", "__pycache__", "runs")
            trees.put(shutil.copytree(ROOT, Path(folder) / str(number), ignore=ignore))
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        code, output = pytest(Path(folder) / "0", tests, jobs)
        if code:
            print(f"the tests fail without a mutant\n{output[-3000:]}")
            sys.exit(2)

        def run(number: int, mutant: Mutant) -> tuple[Mutant, str]:
            tree, start = trees.get(), time.monotonic()
            said = verdict(tree, mutant, number)
            trees.put(tree)
            print(f"{time.monotonic() - start:4.0f} s {mutant}: {said}", flush=True)
            return mutant, said

        yield from pool.map(run, itertools.count(1), mutants)


def main() -> None:
    """Prints the verdicts, then the score of each room and who survived."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    flags = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if flags.only in str(mutant)]
    stale = [mutant for mutant in mutants if not mutant.applies(ROOT)]
    if stale:
        print("no longer apply:", *stale, sep="\n")
        sys.exit(2)
    judged = list(judge([m for m in mutants if not m.equivalent], flags.jobs))
    killed = [mutant for mutant, said in judged if said == "killed"]
    for room, size in Counter(m.room for m, _ in judged).items():
        print(f"{room:12} {sum(m.room == room for m in killed):3} of {size:3}")
    print(f"{'all':12} {len(killed):3} of {len(judged):3}")
    lines = [f"{mutant}: {said}" for mutant, said in judged if said != "killed"]
    lines += [f"{m}: equivalent: {m.equivalent}" for m in mutants if m.equivalent]
    print(*lines, sep="\n")
    sys.exit(len(killed) < len(judged))


if __name__ == "__main__":
    main()
