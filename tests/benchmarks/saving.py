"""Time of a save: how long a preempted run needs before it may be killed.

    python -m tests.benchmarks.saving [DIRECTORY | gs://BUCKET/PATH]

A snapshot holds five arrays per parameter in float32: the parameters, their moving
average, Adam's two moments, and the teacher. Prints size and seconds of saves from the
memory of the host, of 60 and of 300 million parameters, into the directory (or the
temporary one), or into a bucket: the medium's time and the digests', not the network's.
Takes two minutes, 13 GB of disk and up to 20 GB of memory.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp

from progdist.checkpoint import Checkpoints
from progdist.workdir.bucket import is_url
from progdist.workdir.mirror import Mirror

TREES = "params", "ema_params", "mu", "nu", "teacher_params"
LEAF = 1 << 20  # parameters in an array


def make_tree(num_params: int) -> dict[str, dict[str, jax.Array]]:
    """Returns the five trees of a snapshot, with random parameters."""
    keys = jax.random.split(jax.random.key(0), len(TREES))
    return {
        name: {
            str(number): jax.random.normal(jax.random.fold_in(key, number), (LEAF,))
            for number in range(num_params // LEAF)
        }
        for name, key in zip(TREES, keys, strict=True)
    }


def time_saves(num_params: int, directory: str | None, times: int = 3) -> list[float]:
    """Returns the seconds of several saves in a row, each until it is stored."""
    tree, seconds = jax.block_until_ready(make_tree(num_params)), []
    with ExitStack() as stack:
        mirror = None
        if is_url(directory or ""):
            mirror = stack.enter_context(Mirror(f"{directory}/{num_params}", print))
            place = mirror.path
        else:
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=directory))
        checkpoints = Checkpoints(Path(place) / "checkpoints", keep=1, mirror=mirror)
        for step in range(1, times + 1):
            start = time.perf_counter()
            checkpoints.save(step, tree, {"global_step": step})
            checkpoints.wait()
            seconds.append(time.perf_counter() - start)
        checkpoints.close()
    return seconds


def main(directory: str | None = None) -> None:
    """Prints a line for each number of parameters."""
    for millions in (60, 300):
        num_params = millions * 10**6
        size = len(TREES) * jnp.dtype("float32").itemsize * num_params / 1e9
        seconds = ", ".join(f"{each:.1f}" for each in time_saves(num_params, directory))
        print(f"{millions} M parameters, {size:.1f} GB: {seconds} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
