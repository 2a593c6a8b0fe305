"""A whole run: which examples it reads, and which parameters it keeps and measures."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from progdist import checkpoint, parallel, preflight
from progdist.checkpoint import trees
from progdist.config import load_preset
from progdist.data import batch_at, open_source
from progdist.model import init_params
from progdist.trainer import loop, run
from progdist.trainer.phase_end import PhaseEnd
from tests import tiny

SEED, UPDATES, BATCH = 3, 4, 16
MODEL = tiny.model()._replace(image_shape=(8, 8, 1))
MODELS = preflight.Models(MODEL, MODEL, MODEL)


def config_of_run():
    """Two phases, each with an average, and saved when it is done."""
    config = load_preset("digits", "smoke")
    config.seed, config.data.flip = SEED, True
    config.log_every = config.save_every = UPDATES
    for training in (config.base, config.distill):
        training.num_updates, training.ema_decay = UPDATES, 0.5
        training.ema_warmup = 0
        training.learning_rate, training.warmup_updates = 1e-2, 0
    config.distill.start_steps, config.distill.long_rounds = 2, 0
    return config


class Finished(NamedTuple):
    """A run's files, the start of each phase, and what it read and measured."""

    workdir: Path
    batches: list
    rounds: list
    starts: list
    measured: dict


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    seen = Finished(workdir, [], [], [], {})
    train = loop.run

    def spy(step, state, round_, *, batches, **settings):
        seen.rounds.append(jax.tree.map(np.array, round_._replace(key=())))
        seen.starts.append(jax.tree.map(np.array, state))
        return train(step, state, round_, batches=noted(batches), **settings)

    def noted(batches):
        for batch in batches:
            seen.batches.append(jax.device_get(batch))
            yield batch

    def add(_, phase, params, teacher, teacher_params):
        seen.measured[phase.number] = jax.device_get((params, teacher_params))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "make_models", lambda _: MODELS)
        patch.setattr(loop, "run", spy)
        patch.setattr(PhaseEnd, "add", add)
        patch.setattr(PhaseEnd, "conclude", lambda *_: None)
        run.run(config_of_run(), workdir)
    return seen


def saved(finished, global_step):
    """The state in the checkpoint of a global step."""
    tree = trees.read_arrays(finished.workdir / "checkpoints" / str(global_step))
    return tree["state"]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return any(jax.tree.leaves(jax.tree.map(lambda x, y: np.any(x != y), a, b)))


def test_the_data_go_on_from_phase_to_phase(finished):
    """Update k of all reads batch k, of the configured seed, mirrored."""
    source = open_source("digits", "train")
    assert len(finished.batches) == 2 * UPDATES
    for number, batch in enumerate(finished.batches):
        expected = batch_at(source, SEED, number, BATCH, flip=True)
        assert_equal(batch, expected)


def test_each_round_takes_its_own_steps(finished):
    assert [round_.num_steps for round_ in finished.rounds] == [2, 1]


@pytest.mark.parametrize("phase", [0, 1])
def test_the_average_is_kept_and_measured(finished, phase):
    state = saved(finished, (phase + 1) * UPDATES)
    assert differ(state["params"], state["ema_params"])
    params, _ = finished.measured[phase]
    assert_equal(params, state["ema_params"])
    path = checkpoint.model_dir(finished.workdir, phase, [2, 1][phase])
    assert_equal(trees.read_arrays(path)["params"], state["ema_params"])


def test_the_undistilled_teacher_is_measured_beside_each_student(finished):
    base, _ = finished.measured[0]
    assert_equal(finished.measured[1][1], base)
    assert differ(finished.measured[1][0], base)


def test_the_base_model_starts_from_the_seed_and_a_student_from_its_teacher(finished):
    fresh = init_params(MODEL, SEED, parallel.make_mesh())
    base, student = finished.starts
    assert_equal(base.params, fresh)
    average, _ = finished.measured[0]
    for params in (student.params, student.ema_params, finished.rounds[1][0]):
        assert_equal(params, average)
