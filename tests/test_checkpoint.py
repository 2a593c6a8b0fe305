import hashlib
import os
import random
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError, Checkpoints, digests, trees
from progdist.diffusion import logsnr_bins
from progdist.parallel import REPLICATED
from progdist.trainer.state import (
    Progress,
    Snapshot,
    Tally,
    facts_of,
    init_state,
    make_optimizer,
    progress_of,
    snapshot_of,
    tree_of,
)
from tests import tiny

# Orbax leaves an event loop behind where it fails.
READING_DAMAGE = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def snapshot(phase=1, step=3, seed=0):
    optimizer = make_optimizer()
    state = init_state(tiny.params(seed), optimizer, keep_ema=True)
    state = state._replace(step=jnp.int32(step))
    parts = tuple(k / 3 for k in range(len(logsnr_bins.CENTRES)))
    tally = Tally(2, 0.1 + 0.2, 1 / 3, 1e-4, 5, 1, parts, parts[::-1])
    return Snapshot(phase, state, tiny.params(seed + 1) if phase else (), tally)


def save_one(store, global_step, snapshot):
    store.save(global_step, tree_of(snapshot), facts_of(snapshot, global_step))


def save(directory, *steps, keep=10):
    """Snapshots of phase 1 whose parameters are those of seed = step."""
    store = Checkpoints(directory, keep)
    for step in steps:
        save_one(store, step, snapshot(step=step, seed=step))
    store.close()


def restore(directory, template=None):
    """Progress and snapshot of the newest that is intact, and the warnings."""
    warnings = []
    store = Checkpoints(directory, 2, warn=warnings.append)
    template = template or snapshot(step=0, seed=99)
    found = store.restore_newest(lambda facts: tree_of(template))
    store.close()
    return found and (progress_of(found[1]), snapshot_of(*found), warnings)


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "1"},
        {"step": -1},
        {"tally": {"loss": 0.0, "colour": 1}},
        {"tally": {"loss": "0.0"}},
        {"tally": {"parts": [0.0]}},
        {"tally": None},
        {"data": 3},
        {"phase": None, "epoch": 2},
    ],
)
def test_a_card_of_another_version_is_refused_in_one_line(change):
    facts = facts_of(snapshot(), 13) | {"seal": "of another version"}
    assert progress_of(facts).global_step == 13
    with pytest.raises(CheckpointError, match=r"^checkpoint 13: .* another version"):
        progress_of(facts | change)


@READING_DAMAGE
def test_a_description_of_another_version_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "make_card", lambda facts, _: facts | sealed(facts))
    save(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"3: .* another version"):
        restore(tmp_path)
    assert (tmp_path / "3").exists()


def sealed(facts):
    return {"seal": digests.seal(facts)}


def flip(path, rng):
    """Turns one bit."""
    data = bytearray(path.read_bytes() or b"\0")
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_snapshot_comes_back_bit_for_bit(tmp_path, phase):
    assert restore(tmp_path) is None
    store = Checkpoints(tmp_path, keep=2)
    save_one(store, 13, snapshot(phase))
    store.close()
    progress, restored, warnings = restore(tmp_path, snapshot(phase, 0, seed=5))
    assert progress == Progress(phase, 3, 13)
    assert_same(restored, snapshot(phase))
    assert warnings == []


def test_a_snapshot_comes_back_onto_another_number_of_devices(tmp_path):
    meshes = [parallel.make_mesh(jax.devices()[:n]) for n in (2, 8)]
    saved, store = snapshot(), Checkpoints(tmp_path, keep=1)
    save_one(store, 1, saved._replace(state=parallel.place(saved.state, meshes[0])))
    store.close()
    template = snapshot(seed=5)[1:3]
    specs = jax.tree.map(lambda _: REPLICATED, template)
    shapes = parallel.placed_shapes(template, meshes[1], specs)
    _, restored, _ = restore(tmp_path, Snapshot(1, *shapes))
    assert_same(restored, saved)
    assert len(jax.tree.leaves(restored.state)[0].sharding.device_set) == 8


def test_the_latest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, keep=2)
    assert {p.name for p in tmp_path.iterdir()} == {"2", "3"}


def test_a_step_that_is_there_stays_as_it_is(tmp_path):
    save(tmp_path, 4)
    store = Checkpoints(tmp_path, 2)
    save_one(store, 4, snapshot(seed=7))
    store.close()
    assert_same(restore(tmp_path)[1], snapshot(step=4, seed=4))


def test_saving_is_not_disturbed_by_the_next_update(tmp_path):
    """The write goes on while the train step reuses the memory of what is saved."""
    store = Checkpoints(tmp_path, keep=1)
    mesh = parallel.make_mesh(jax.devices()[:1])
    add = parallel.pmap(
        lambda tree: jax.tree.map(lambda x: x + 1, tree),
        mesh,
        (REPLICATED,),
        REPLICATED,
        donate_argnums=(0,),
    )
    big = {"w": jnp.zeros((2000, 2000))}
    state = init_state(big, make_optimizer(), keep_ema=False)
    save_one(store, 1, Snapshot(0, parallel.place(state, mesh), ()))
    live = parallel.place(state, mesh)
    for k in range(2, 5):
        save_one(store, k, Snapshot(0, live, ()))
        live = live._replace(params=add(live.params))
    store.close()
    _, restored, _ = restore(tmp_path, Snapshot(0, state, ()))
    np.testing.assert_array_equal(restored.state.params["w"], 2.0)


def test_a_flipped_bit_in_any_file_is_found(tmp_path):
    """A hundred of a hundred, at least one in each file."""
    save(tmp_path, 1)
    where, rng = tmp_path / "1", random.Random(0)
    paths = files(where)
    for k in range(100):
        path = paths[k % len(paths)]
        intact = path.read_bytes()
        flip(path, rng)
        with pytest.raises(digests.DamageError):
            digests.check_manifest(where)
        path.write_bytes(intact)
    digests.check_manifest(where)


@READING_DAMAGE
def test_a_flipped_bit_is_found_without_the_manifest(tmp_path):
    """As after a kill before it was written: the leaves' own digests are left.

    A flip may also hit what no array depends on; then they are what was saved.
    """
    save(tmp_path, 1)
    where, rng, found = tmp_path / "1", random.Random(1), 0
    (where / "manifest.sha256").unlink()
    for path in files(where):
        intact = path.read_bytes()
        flip(path, rng)
        try:
            assert_same(restore(tmp_path)[1], snapshot(step=1, seed=1))
        except CheckpointError:
            found += 1
        path.write_bytes(intact)
    assert found >= 3  # arrays, their index, the card


def test_the_digest_of_a_leaf_sees_a_bit_that_the_files_do_not_show(tmp_path):
    save(tmp_path, 1)
    where = tmp_path / "1"
    card = trees.read_card(where)
    tree = trees.read_arrays(where)
    values = tree["state"]["params"]["Dense_0"]["kernel"].view(np.uint8)
    values.flat[5] ^= 4
    with pytest.raises(digests.DamageError, match="state/params/Dense_0/kernel"):
        digests.check_digests(where, tree, trees.leaves_on(card))


@pytest.mark.parametrize("damage", ["flip", "lose", "add", "empty", "other", "model"])
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, damage):
    save(tmp_path, 1, 2, 3)
    where = tmp_path / "3"
    match damage:
        case "flip":
            flip(where / "state" / "_METADATA", random.Random(2))
        case "lose":
            (where / "state" / "manifest.ocdbt").unlink()
        case "add":
            (where / "state" / "d" / "more").write_text("x")
        case "empty":
            shutil.rmtree(where)
            where.mkdir()
        case "other":
            shutil.rmtree(where)
            shutil.copytree(tmp_path / "1", where)
        case "model":
            shutil.rmtree(where)
            checkpoint.save_model(where, tiny.params(), {"num_steps": 4})
    progress, restored, warnings = restore(tmp_path)
    assert progress.global_step == 2
    assert_same(restored, snapshot(step=2, seed=2))
    assert len(warnings) == 1
    assert str(where) in warnings[0]
    assert warnings[0].endswith("moved aside as 3.damaged")
    save(tmp_path, 3)  # its place is free again
    assert restore(tmp_path)[0].global_step == 3


def test_what_is_no_checkpoint_does_not_win(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "99").mkdir()
    (tmp_path / "100").write_text("a file")
    for name in ("x", "007", "5.orbax-checkpoint-tmp", "-3"):
        (tmp_path / name).mkdir()
    progress, _, warnings = restore(tmp_path)
    assert progress.global_step == 2
    assert [w.rsplit(" ", 1)[1] for w in warnings] == ["99.damaged"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path):
    save(tmp_path, 1, 2)
    for step in "12":
        (tmp_path / step / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint is intact .*/2.*/1"):
        restore(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2"}


@pytest.mark.parametrize("leaf", ["shape", "dtype", "missing", "extra"])
def test_a_snapshot_of_another_network_is_refused_by_the_name_of_a_leaf(tmp_path, leaf):
    save(tmp_path, 1)
    template = snapshot()
    dense = template.state.params["Dense_0"]
    match leaf:
        case "shape":
            dense["kernel"] = jnp.zeros((2, 9))
        case "dtype":
            dense["kernel"] = dense["kernel"].astype(jnp.bfloat16)
        case "missing":
            del dense["kernel"]
        case "extra":
            dense["kernel2"] = jnp.zeros(1)
    with pytest.raises(CheckpointError, match="state/params/Dense_0/kernel") as error:
        restore(tmp_path, template)
    assert not isinstance(error.value, digests.DamageError)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    """The same for the same snapshot; each group has its own."""
    for name in ("a", "b"):
        save(tmp_path / name, 3)
    one = checkpoint.fingerprint(tmp_path / "a" / "3")
    assert one == checkpoint.fingerprint(tmp_path / "b" / "3")
    assert list(one) == ["params", "ema", "optimizer", "teacher", "progress"]
    other = snapshot(step=3, seed=3)
    other.state.ema_params["Dense_0"]["bias"] += 1
    store = Checkpoints(tmp_path / "c", 1)
    save_one(store, 3, other)
    store.close()
    changed = checkpoint.fingerprint(tmp_path / "c" / "3")
    assert [name for name in one if one[name] != changed[name]] == ["ema"]


def test_a_model_is_kept_with_its_card(tmp_path):
    path = checkpoint.model_dir(tmp_path, 3, 4)
    assert path.name == "phase_03_steps_4"
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    assert checkpoint.read_card(path)["num_steps"] == 4
    assert_same(checkpoint.load_model(path, tiny.params()), tiny.params(1))


def test_the_same_model_stays_and_another_replaces_it(tmp_path):
    path = tmp_path / "m"
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4, "commit": "first"})
    before = (path / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    assert (path / "_CHECKPOINT_METADATA").stat().st_mtime_ns == before
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4, "commit": "later"})
    assert checkpoint.read_card(path)["commit"] == "first"
    checkpoint.save_model(path, tiny.params(2), {"num_steps": 4})
    assert_same(checkpoint.load_model(path, tiny.params()), tiny.params(2))


@READING_DAMAGE
def test_a_model_without_its_manifest_is_written_anew(tmp_path):
    """As after a kill before it was added; what was damaged since is not blessed."""
    path = tmp_path / "m"
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    (path / "manifest.sha256").unlink()
    for data in (path / "state" / "d").iterdir():
        flip(data, random.Random(4))
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    assert_same(checkpoint.load_model(path, tiny.params()), tiny.params(1))


def test_what_cannot_be_read_for_other_reasons_is_not_called_damaged(
    tmp_path, monkeypatch
):
    save(tmp_path, 1, 2)

    def fail(error):
        def load(*_):
            raise error

        monkeypatch.setattr(trees.ocp, "load", load)

    fail(OSError("the network is down"))
    with pytest.raises(
        CheckpointError, match=r"2: cannot be read .the network is down"
    ):
        restore(tmp_path)
    fail(MemoryError())
    with pytest.raises(MemoryError):
        restore(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"1", "2"}


def test_a_newer_step_is_an_error_and_no_silence(tmp_path):
    save(tmp_path, 5)
    store = Checkpoints(tmp_path, 2)
    with pytest.raises(checkpoint.SaveError, match="5 exists and is newer"):
        save_one(store, 4, snapshot())
    store.close()


def test_a_damaged_model_is_refused(tmp_path):
    path, rng = tmp_path / "m", random.Random(3)
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    for file in files(path):
        intact = file.read_bytes()
        flip(file, rng)
        with pytest.raises(digests.DamageError):
            checkpoint.load_model(path, tiny.params())
        file.write_bytes(intact)


def test_the_files_of_a_model_are_hashed_once_unless_they_change(tmp_path, monkeypatch):
    path, hashed, digest = tmp_path / "m", [], hashlib.file_digest
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    monkeypatch.setattr(
        hashlib, "file_digest", lambda *a: hashed.append(a) or digest(*a)
    )
    checkpoint.check_model(path, tiny.params())
    count = len(hashed)
    assert count == len(files(path)) - 1  # all but the manifest
    checkpoint.load_model(path, tiny.params())
    assert len(hashed) == count
    os.utime(files(path)[0], ns=(0, 1))
    checkpoint.load_model(path, tiny.params())
    assert len(hashed) == 2 * count


def test_what_a_write_that_was_cut_short_leaves_is_cleared(tmp_path):
    for name in ("5.orbax-checkpoint-tmp", "phase_01_steps_2.orbax-checkpoint-tmp-12"):
        (tmp_path / name / "state").mkdir(parents=True)
    save(tmp_path, 1)
    checkpoint.clear_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"1"}


def test_a_model_of_another_network_is_refused_by_the_name_of_a_leaf(tmp_path):
    other = tiny.params()
    other["Dense_0"]["kernel"] = jnp.zeros((2, 9))
    checkpoint.save_model(tmp_path / "m", other, {"num_steps": 4})
    with pytest.raises(CheckpointError, match=r"Dense_0/kernel is float32\[2, 9\]"):
        checkpoint.load_model(tmp_path / "m", tiny.params())


def released(tree, path, **fields):
    state = {"ema_params": tree} | fields
    path.write_bytes(flax.serialization.msgpack_serialize(state))


def test_a_released_file_loads_with_its_axes_of_one(tmp_path):
    tree = jax.tree.map(np.asarray, tiny.params(1))
    tree["Dense_0"]["bias"] = tree["Dense_0"]["bias"].reshape(1, 1, 1, -1)
    released(tree, tmp_path / "released")
    loaded = checkpoint.load_model(tmp_path / "released", tiny.params())
    assert_same(loaded, tiny.params(1))


def test_a_released_file_of_another_network_is_refused(tmp_path):
    tree = jax.tree.map(np.asarray, tiny.params())
    del tree["Dense_1"]["bias"]
    released(tree, tmp_path / "released")
    with pytest.raises(CheckpointError, match="Dense_1/bias has shape none"):
        checkpoint.load_model(tmp_path / "released", tiny.params())


@pytest.mark.parametrize(("steps", "card"), [(0, {}), (4, {"num_steps": 4})])
def test_a_released_student_is_known_by_its_number_of_steps(tmp_path, steps, card):
    tree = jax.tree.map(np.asarray, tiny.params())
    released(tree, tmp_path / "released", num_sample_steps=steps)
    assert checkpoint.check_model(tmp_path / "released", tiny.params()) == card


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused_by_name(tmp_path, value):
    broken = jax.tree.map(lambda leaf: leaf.copy(), tiny.params())
    broken["Dense_1"]["kernel"] = broken["Dense_1"]["kernel"].at[0, 0].set(value)
    checkpoint.save_model(tmp_path / "saved", broken, {"num_steps": 4})
    released(jax.tree.map(np.asarray, broken), tmp_path / "released")
    for name in ("saved", "released"):
        with pytest.raises(CheckpointError, match=rf"{name}: .*Dense_1/kernel has va"):
            checkpoint.load_model(tmp_path / name, tiny.params())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a flax msgpack file"):
        checkpoint.load_model(tmp_path / "file", tiny.params())


def test_a_directory_without_a_model_is_refused(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", keep=1)
    save_one(store, 1, snapshot())
    store.close()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "checkpoints" / "1"):
        with pytest.raises(CheckpointError, match="holds no model"):
            checkpoint.load_model(path, tiny.params())


def test_a_fingerprint_sees_names_shapes_dtypes_and_values():
    x = np.arange(6, dtype=np.float32)
    cases = [{"a": x}, {"b": x}, {"a": x.reshape(2, 3)}, {"a": x.view(np.int32)}]
    cases += [{"a": x + 1}, {"a": x, "b": x}, {"a": {"b": x}}]
    assert len({digests.fingerprint_of(tree) for tree in cases}) == len(cases)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b"other"), "damaged"),
        (lambda path: path.unlink(), "lost"),
        (lambda path: (path.parent / "z").write_bytes(b""), "does not belong there"),
    ],
)
def test_a_manifest_says_what_is_wrong_with_a_file(tmp_path, damage, says):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    digests.write_manifest(tmp_path)
    digests.check_manifest(tmp_path)
    damage(tmp_path / "b")
    with pytest.raises(digests.DamageError, match=f"/[bz]: {says}$"):
        digests.check_manifest(tmp_path)


def test_arrays_that_are_read_wrongly_are_damage(tmp_path, monkeypatch):
    """Whatever the files and their digests say."""
    save(tmp_path, 1)
    load = trees.ocp.load

    def wrong(*args):
        tree = load(*args)
        tree["state"]["params"]["Dense_0"]["bias"] += 1
        return tree

    monkeypatch.setattr(trees.ocp, "load", wrong)
    with pytest.raises(
        digests.DamageError, match="the content of state/params/Dense_0"
    ):
        trees.read_arrays(tmp_path / "1")


def test_what_is_whole_but_cannot_be_read_is_no_damage(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def fail(*_):
        raise OSError("the network is down")

    monkeypatch.setattr(trees.ocp, "load", fail)
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        trees.read_arrays(tmp_path / "1")
    assert not isinstance(error.value, digests.DamageError)
    (tmp_path / "1" / "manifest.sha256").unlink()
    with pytest.raises(digests.DamageError, match="cannot be read"):
        trees.read_arrays(tmp_path / "1")
