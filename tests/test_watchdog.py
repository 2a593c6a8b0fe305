import subprocess
import sys

import pytest

CODE = """
import threading, time
from progdist.trainer.preemption import Watchdog

def waits_for_a_peer():
    threading.Event().wait()

with Watchdog({seconds}) as watchdog:
    for _ in range(10):
        time.sleep(0.1)
        watchdog.beat()
    {then}
"""


def run(seconds, then):
    code = CODE.format(seconds=seconds, then=then)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )


def test_a_process_that_hangs_shows_where_and_ends():
    done = run(2, "waits_for_a_peer()")
    assert done.returncode == 5
    assert done.stderr.startswith("progdist: no progress for 2 seconds")
    assert "in waits_for_a_peer" in done.stderr


def test_one_that_makes_progress_is_left_alone():
    done = run(5, "pass")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_limit_nothing_is_watched():
    done = run(0, "time.sleep(0.5)")
    assert (done.returncode, done.stderr) == (0, "")


DRAWS = """
import time
import jax
from progdist import parallel
from progdist.sampling import draw
from progdist.trainer.preemption import Watchdog
from tests import tiny

def slow(*inputs):
    num_calls, first, last = inputs[-1]
    time.sleep(0.1 * (last - first))
    return compiled.advance(*inputs)

draw.PIECE_SECONDS = {piece}
mesh = parallel.make_mesh(jax.devices()[:1])
compiled = draw.make_sampler(tiny.model(), mesh)
params = parallel.place(tiny.params(), mesh)
draw.compile_sampler(compiled, params, 4, mesh)
sampler = compiled._replace(advance=slow)
with Watchdog(2.0) as watchdog:
    batches = draw.Batches(sampler, params, 0, 4, 64, 4, mesh)
    list(batches.draw(lambda count: watchdog.beat()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("piece", "code"), [(0.5, 0), (1e9, 5)])
def test_a_batch_may_take_longer_than_the_limit_but_no_piece_of_it(piece, code):
    """The batch takes 6.4 seconds, and the limit is 2."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWS.format(piece=piece)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
