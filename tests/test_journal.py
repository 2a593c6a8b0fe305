import json
from contextlib import ExitStack

import numpy as np
import pytest

from tests.journals import measured, open_journal, row


def steps(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["global_step"] for line in lines]


def test_a_resumed_run_leaves_neither_holes_nor_doubles(tmp_path):
    journal = open_journal(tmp_path, 0)
    for step in (5, 10, 15):
        journal.metrics(row(step))
    journal.close()
    journal = open_journal(tmp_path, 10)  # the newest checkpoint is of step 10
    for step in (15, 20):
        journal.metrics(row(step))
    journal.close()
    assert steps(tmp_path) == [5, 10, 15, 20]


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl"])
def test_a_line_that_was_cut_short_is_dropped_before_the_next(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(row(5).to_json()) + '\n{"global_st')
    journal = open_journal(tmp_path, 5)
    journal.metrics(row(10))
    journal.evaluation(measured(), 10)
    journal.close()
    for line in (tmp_path / name).read_text().splitlines():
        json.loads(line)


def test_only_the_first_process_writes(tmp_path):
    journal = open_journal(tmp_path, 0, active=False)
    journal.metrics(row(5))
    journal.close()
    assert list(tmp_path.iterdir()) == []


def starts(workdir):
    lines = (workdir / "starts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def fail(journal):
    with ExitStack() as stack:
        stack.push(journal.close)
        raise ValueError("lost")


def test_an_error_that_ends_a_run_is_noted(tmp_path):
    journal = open_journal(tmp_path, 0)
    journal.start({"global_step": 0})
    with pytest.raises(ValueError, match="lost"):
        fail(journal)
    assert [row.get("end") for row in starts(tmp_path)] == [None, "ValueError"]


def test_a_full_disk_does_not_hide_the_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    journal = open_journal(tmp_path, 0)
    monkeypatch.setattr("progdist.workdir.journal.append", refuse)
    with pytest.raises(ValueError, match="lost"):
        fail(journal)


def test_sample_grids_go_to_tensorboard(tmp_path):
    journal = open_journal(tmp_path, 0)
    grid = np.zeros((8, 8, 1), np.uint8)
    journal.images("samples/student", grid, 10)
    journal.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"samples/student" in events.read_bytes()
    assert b"\x89PNG" in events.read_bytes()
