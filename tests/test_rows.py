"""Rows are written as they were read, byte for byte."""

import json

import pytest

from progdist.workdir.files import FormatError
from progdist.workdir.rows import EvalRow, MetricsRow, read_row

METRICS = (
    '{"global_step": 5, "phase": 0, "num_steps": 4, "step": 5, "loss": 0.7140987, '
    '"grad_norm": 0.56, "learning_rate": 1.5e-05, "skipped": 0, '
    '"steps_per_second": 1.045, "tflops_per_second": 0.5, "utilisation": null, '
    '"loss_by_logsnr": [null, ' + ", ".join(["0.725"] * 20) + "]}"
)
EVALUATION = (
    '{"phase": 0, "role": "teacher", "sampler": "ancestral", "num_steps": 4, '
    '"trained_steps": 4, "gamma": 0.3, "params": "5a9e", "output": "v", '
    '"schedule": "cosine", "num_samples": 32, "seed": 0, "features": "pixels", '
    '"weights": "", "reference": {"data": "digits", "split": "train", "count": 1797, '
    '"content": "8414"}, "metric": "KID-pixels", "value": 46.5, '
    '"milliseconds": 1.5, "std": 0.25, '
    '"floor": {"value": 4.5, "measured": 8.25, "count": 32}}'
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (MetricsRow, METRICS),
        (EvalRow, EVALUATION),
        (EvalRow, EVALUATION.replace('"gamma": 0.3, ', "")),
        (EvalRow, EVALUATION.replace('"measured": 8.25, ', "")),
        (EvalRow, EVALUATION.split(' "floor"')[0] + ' "floor": null}'),
    ],
)
def test_a_row_is_written_as_it_was_read(kind, text):
    row = read_row(kind, json.loads(text), "file")
    assert json.dumps(row.to_json()) == text


def test_a_whole_number_is_read_as_the_float_of_its_field():
    row = read_row(EvalRow, json.loads(EVALUATION) | {"value": 46, "floor": None}, "f")
    assert (type(row.value), row.floor, row.details) == (float, None, {"std": 0.25})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"value": 1.0, "std": 0.5, "floor": None}, True),
        ({"milliseconds": 3.0}, True),
        ({"of another version": 1}, True),
        ({"gamma": 0.5}, False),
        ({"params": "ffff"}, False),
        ({"params": None}, False),
        ({"metric": "FD-pixels"}, False),
        ({"reference": None}, False),
    ],
)
def test_a_row_repeats_one_that_differs_in_the_result_alone(change, same):
    fields = json.loads(EVALUATION)
    one = read_row(EvalRow, fields, "file")
    assert one.repeats(read_row(EvalRow, fields | change, "file")) == same


def test_what_is_missing_or_malformed_is_named():
    with pytest.raises(
        FormatError, match=r"^eval.jsonl: a row lacks role, sampler, num"
    ):
        read_row(EvalRow, {"phase": 0, "value": 1.0}, "eval.jsonl")
    reference = {"reference": {"data": "digits", "split": "train", "count": -1}}
    with pytest.raises(
        FormatError, match=r"^f: reference.count is not a whole number, 0"
    ):
        read_row(EvalRow, json.loads(EVALUATION) | reference, "f")
