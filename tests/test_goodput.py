"""Goodput is defined by times that a run records, whatever happened in between."""

import json

import pytest

from progdist.report import read_goodput
from progdist.report.read.run import load
from tests.workdirs import evaluation, write_jsonl

SETTINGS = {"num_samples": 2000, "seed": 0, "baselines": ["ddim"], "gamma": 0.3}
TRAINING, SAMPLING = 60.0, 20.0  # of the run below


def at(seconds, **fields):
    return {"time": f"2026-01-01T00:{seconds // 60:02d}:{seconds % 60:02d}Z"} | fields


def workdir(path, starts, evaluations=(), **settings):
    """A run of 120 updates at 2 a second, and of 2,000 samples at 10 ms."""
    config = {"evaluation": SETTINGS | settings}
    (path / "config.json").write_text(json.dumps(config))
    rows = [
        {
            **{"global_step": 60 * phase + 60, "step": 60, "phase": phase},
            **{"num_steps": 16 >> phase, "steps_per_second": 2.0},
            **{"loss": 1.0, "learning_rate": 0.1},
        }
        for phase in (0, 1)
    ]
    write_jsonl(path / "metrics.jsonl", rows)
    own = evaluation(0, "teacher", "ddim", 16, 2.0) | {"seed": 0, "milliseconds": 10.0}
    other = own | {"metric": "KID-pixels"}  # of the same samples
    write_jsonl(path / "eval.jsonl", [own, other, *(own | e for e in evaluations)])
    write_jsonl(path / "starts.jsonl", starts)
    return path


DONE = {"end": "done"}


@pytest.mark.parametrize(
    ("starts", "elapsed", "waiting"),
    [
        ([at(0), at(100, **DONE)], 100, 0),
        # Killed after an unknown time, and begun again 100 s after its start.
        ([at(0), at(100), at(160, **DONE)], 160, 0),
        # Stopped at 40 s, begun again at 100 s.
        ([at(0), at(40, end="Interrupted"), at(100), at(160, **DONE)], 160, 60),
        # What follows the end of a finished run is no wait.
        ([at(0), at(100, **DONE), at(900), at(910, **DONE)], 110, 0),
    ],
)
def test_the_useful_time_is_compared_with_all_of_it(tmp_path, starts, elapsed, waiting):
    goodput = read_goodput(workdir(tmp_path, starts))
    assert goodput == load(tmp_path).goodput
    assert goodput == (TRAINING, SAMPLING, waiting, elapsed)
    assert goodput.share == (TRAINING + SAMPLING) / elapsed


def test_what_other_commands_have_sampled_is_not_the_run_s(tmp_path):
    others = [
        {"sampler": "heun"},
        {"seed": 1},
        {"num_samples": 50_000},
        {"num_steps": 4},
        {"precision": "highest", "milliseconds": 900.0},
        {"role": "student", "sampler": "ancestral", "gamma": 0.3},
        {"role": "student", "num_steps": 8, "trained_steps": 16},
    ]
    starts = [at(0), at(100, **DONE)]
    assert read_goodput(workdir(tmp_path, starts, others)).sampling == SAMPLING
    student = {"role": "student", "num_steps": 8, "trained_steps": 8}
    others = [student, {"num_steps": 8}]
    assert read_goodput(workdir(tmp_path, starts, others)).sampling == 3 * SAMPLING
    # Above a bound, students are left out, and the teacher takes the bound.
    others = [student, {"num_steps": 5}]
    bounded = workdir(tmp_path, starts, others, max_steps=5)
    assert read_goodput(bounded).sampling == SAMPLING


def test_models_of_one_name_are_sampled_apart(tmp_path):
    starts, other = [at(0), at(100, **DONE)], {"params": "of another teacher"}
    goodput = read_goodput(workdir(tmp_path, starts, [other]))
    assert goodput.sampling == 2 * SAMPLING


@pytest.mark.parametrize("starts", [[], [at(0)], [{"time": None}, at(9, **DONE)]])
def test_without_times_there_is_none(tmp_path, starts):
    assert read_goodput(workdir(tmp_path, starts)) is None


def test_it_is_written_with_its_parts(tmp_path):
    goodput = read_goodput(workdir(tmp_path, [at(0), at(100, **DONE)]))
    assert str(goodput) == "80 % of 1 min 40 s: training 1 min 0 s, sampling 20 s"
