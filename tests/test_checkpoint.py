import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist import checkpoint, parallel
from progdist.checkpoint import CheckpointError, Checkpoints, Progress
from progdist.state import Snapshot, init_state, make_optimizer
from tests import tiny


def snapshot(phase=1, step=3, seed=0):
    optimizer = make_optimizer(1.0, 0.0)
    state = init_state(tiny.params(seed), optimizer, keep_ema=True)
    state = state._replace(step=jnp.int32(step))
    return Snapshot(phase, state, tiny.params(seed + 1) if phase else ())


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("phase", [0, 1])
def test_a_snapshot_comes_back_bit_for_bit(tmp_path, phase):
    store = Checkpoints(tmp_path, keep=2)
    assert store.latest() is None
    store.save(13, snapshot(phase))
    store.close()
    store = Checkpoints(tmp_path, keep=2)
    progress = store.latest()
    assert progress == Progress(phase, 3, 13)
    assert_same(store.restore(progress, snapshot(phase, 0, seed=5)), snapshot(phase))
    store.close()


def test_a_snapshot_comes_back_onto_another_number_of_devices(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    meshes = [parallel.make_mesh(jax.devices()[:n]) for n in (2, 8)]
    saved = snapshot()
    store.save(1, saved._replace(state=parallel.replicate(saved.state, meshes[0])))
    store.wait()
    template = snapshot(seed=5)
    template = template._replace(state=parallel.replicate(template.state, meshes[1]))
    restored = store.restore(Progress(1, 3, 1), template)
    assert_same(restored, saved)
    assert len(jax.tree.leaves(restored.state)[0].sharding.device_set) == 8
    store.close()


def test_the_latest_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, snapshot(step=step))
    store.close()
    kept = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert kept == {"2", "3"}


def test_saving_is_not_disturbed_by_the_next_update(tmp_path):
    """The write goes on while the train step reuses the memory of what is saved."""
    store = Checkpoints(tmp_path, keep=1)
    mesh = parallel.make_mesh(jax.devices()[:1])
    add = parallel.pmap(
        lambda tree: jax.tree.map(lambda x: x + 1, tree), mesh, (None,), None, (0,)
    )
    big = {"w": jnp.zeros((2000, 2000))}
    state = init_state(big, make_optimizer(1.0, 0.0), keep_ema=False)
    store.save(1, Snapshot(0, parallel.replicate(state, mesh), ()))
    live = parallel.replicate(state, mesh)
    for k in range(2, 5):
        store.save(k, Snapshot(0, live, ()))
        live = live._replace(params=add(live.params))
    store.wait()
    restored = store.restore(Progress(0, 0, 4), Snapshot(0, state, ()))
    np.testing.assert_array_equal(restored.state.params["w"], 2.0)
    store.close()


def test_a_model_is_kept_with_its_card(tmp_path):
    path = checkpoint.model_dir(tmp_path, 3, 4)
    assert path.name == "phase_03_steps_4"
    checkpoint.save_model(path, tiny.params(1), {"num_steps": 4})
    checkpoint.save_model(path, tiny.params(2), {"num_steps": 5})  # the first one stays
    assert checkpoint.read_card(path) == {"num_steps": 4}
    assert_same(checkpoint.load_model(path, tiny.params()), tiny.params(1))


def test_a_model_of_another_network_is_refused_by_the_name_of_a_leaf(tmp_path):
    other = tiny.params()
    other["Dense_0"]["kernel"] = jnp.zeros((2, 9))
    checkpoint.save_model(tmp_path / "m", other, {})
    with pytest.raises(CheckpointError, match=r"Dense_0/kernel has shape \(2, 9\)"):
        checkpoint.load_model(tmp_path / "m", tiny.params())


def released(tree, path):
    path.write_bytes(flax.serialization.msgpack_serialize({"ema_params": tree}))


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


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a flax msgpack file"):
        checkpoint.load_model(tmp_path / "file", tiny.params())


def test_a_directory_without_a_model_is_refused(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints", keep=1)
    store.save(1, snapshot())
    store.close()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "checkpoints" / "1"):
        with pytest.raises(CheckpointError, match="holds no model"):
            checkpoint.load_model(path, tiny.params())
