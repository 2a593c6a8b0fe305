"""Long computations that a signal can interrupt."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from progdist.evaluate.background import compute_on_zero
from progdist.evaluate.metrics import Moments, frechet_distance


class Stop(Exception):
    pass


def test_a_result_is_returned_and_an_error_raised():
    assert compute_on_zero(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        compute_on_zero(lambda: 1 / 0, lambda: None)


def test_a_computation_that_never_ends_is_left_behind():
    never, calls = threading.Event(), []

    def check():
        calls.append(None)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        compute_on_zero(never.wait, check)
    never.set()


def test_the_main_thread_runs_while_a_distance_is_computed():
    """LAPACK as called by SciPy would keep it waiting to the end."""
    x = np.random.default_rng(0).normal(size=(2000, 2000))
    moments, calls = Moments(x[0], x @ x.T), []
    with threadpool_limits(1, "blas"):  # more would spin on a busy machine
        compute_on_zero(
            lambda: frechet_distance(moments, moments), lambda: calls.append(None)
        )
    assert len(calls) >= 3
