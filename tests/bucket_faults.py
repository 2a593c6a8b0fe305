"""Ends runs whose workdir is in a bucket, resumes them, and compares the results.

  python -m tests.bucket_faults

prints a line a fault: ten kills, five signals, five lost processes of two, and a run in
which 30 % of all requests fail for a minute. Each start finds nothing of its
run but the bucket, as on another machine. In the end parameters, average,
optimiser, teacher and progress of the last checkpoint, the models of all phases, and
the rows of numbers must be those of a run on a disk, bit for bit.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from progdist.workdir import bucket, copies, files
from tests import bucket_server, faults
from tests.test_processes import clusters, end

KILLS = [
    ("update", 1),
    ("update", 8),
    ("update", 17),
    ("write", 10),
    ("seal", 25),
    ("push", 3),
    ("push", 20),
    ("push", 60),
    ("evaluation", 7),
    ("model", 3),
]
STOPS = [
    ("terminated", 3),
    ("terminated", 7),
    ("terminated", 13),
    ("terminated", 22),
    ("terminated_sampling", 3),
]
# Process to kill, and the event at which; the last one during a push.
LOST = [(0, "update", 8), (1, "update", 8), (1, "update", 17), (0, "update", 22)]
LOST += [(0, "push", 30)]
FLAKY_SECONDS, FLAKY_SHARE = 60.0, 0.3


def empty_disk(place):
    """Returns an environment whose cache holds programs and statistics alone."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "progdist").mkdir(parents=True)
    for name in ("jax", "statistics"):
        shared = files.cache_dir() / name
        shared.mkdir(parents=True, exist_ok=True)
        (place / "progdist" / name).symlink_to(shared)
    return os.environ | {"XDG_CACHE_HOME": str(place)}


def start(url, disk, *place, flags=()):
    """Starts one process on an empty disk."""
    command = faults.command(url, *place, flags=flags)
    return _quiet(command, empty_disk(disk))


def _quiet(command, env):
    return subprocess.Popen(command, **faults.QUIET, stdout=subprocess.DEVNULL, env=env)


def start_two(url, disk, killed=None, *place):
    return [
        start(
            url, disk / str(i), *(place if i == killed else ("nowhere", 0)), flags=flags
        )
        for i, flags in enumerate(clusters(2))
    ]


def differences(alone, url):
    copies._copies.pop(url, None)
    return faults.differences(alone, copies.local(url))


def end_and_resume(alone, url, disk, *place):
    """Returns what differs in the end of a run of one process."""
    is_stopped = "terminated" in place[0]
    (code,), (said,) = end([start(url, disk, *place)])
    if code != (143 if is_stopped else -9):
        return [f"did not end: {code} {said[-500:]}"]
    (code,), (said,) = end([start(url, disk)])
    if code:
        return [f"did not resume: {code} {said[-500:]}"]
    return differences(alone, url)


def lose_and_resume(alone, url, disk, *killed):
    """Returns what differs in the end of a run of two processes."""
    codes, said = end(start_two(url, disk, *killed))
    lost = codes.pop(killed[0])
    if lost != -9 or codes[0] not in (5, -6):
        return [f"did not end: {lost} {codes} {said}"]
    codes, said = end(start_two(url, disk))
    if any(codes):
        return [f"did not resume: {codes} {said}"]
    return differences(alone, url)


def fail_for_a_minute(alone, url, disk, server):
    """Returns what differs in the end of a run whose bucket fails for a minute."""
    with bucket_server.Flaky(server) as proxy:
        proxy.share = FLAKY_SHARE
        calm = threading.Timer(FLAKY_SECONDS, lambda: setattr(proxy, "share", 0.0))
        calm.start()
        command = faults.command(url)
        env = empty_disk(disk) | {"STORAGE_EMULATOR_HOST": proxy.url}
        (code,), (said,) = end([_quiet(command, env)])
        calm.cancel()
    if code or not proxy.failed:
        return [f"did not end: {code} {said[-500:]}"]
    return differences(alone, url)


@contextlib.contextmanager
def emulated():
    """A server for this process and those that it starts."""
    with bucket_server.serving() as server:
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        os.environ["STORAGE_EMULATOR_HOST"] = server
        bucket._client.cache_clear()
        try:
            yield server
        finally:
            os.environ.pop("STORAGE_EMULATOR_HOST")
            if before:
                os.environ["STORAGE_EMULATOR_HOST"] = before


def main():
    began, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name, emulated() as server:
        runs = Path(name)
        alone, two = runs / "alone", runs / "two"
        codes, said = end(
            [start(alone, runs / "disk"), *start_two(two, runs / "disks")]
        )
        assert codes == [0, 0, 0], said
        jobs = [(end_and_resume, alone, place) for place in KILLS + STOPS]
        jobs += [(lose_and_resume, two, place) for place in LOST]
        jobs += [(fail_for_a_minute, alone, (server,))]
        for number, (act, reference, place) in enumerate(jobs):
            url = f"gs://{bucket_server.BUCKET}/{number}"
            differs = act(reference, url, runs / "disk", *place)
            wrong += bool(differs)
            title = f"{act.__name__} {place}" if act != fail_for_a_minute else "503"
            print(f"{title:45} {', '.join(differs) or 'bit-equal'}", flush=True)
    seconds = time.monotonic() - began
    print(f"{len(jobs) - wrong} of {len(jobs)} as they should be, {seconds:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
