"""Models opened by their paths: one model wherever it lies, and damaged cards."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import progdist
from progdist import checkpoint
from progdist.checkpoint import CheckpointError
from progdist.commands import devices, sample
from progdist.errors import InputError, UsageError
from progdist.export.write import write
from progdist.model import bind
from progdist.nets.conditioning import Conditioning
from progdist.sampling import cards
from progdist.workdir import layout
from progdist.workdir.rows import EvalRow
from tests.models import CLASSES, write_models
from tests.workdirs import evaluation, write_jsonl

BATCH = {"batch_size": 31}  # on one device, which compiles faster
# Where the student of one step lies, below the directory of `places`.
PLACES = (
    "run/models/phase_02_steps_1",
    "alone",
    "exported",
    "exported/hub",
    "exported/hub/model.safetensors",
    "exported/params.safetensors",
    "one.safetensors",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run with classes, and copies and exports of its last student."""
    path = tmp_path_factory.mktemp("places")
    run = write_models(path / "run", num_classes=3)
    shutil.copytree(run / "models" / "phase_02_steps_1", path / "alone")
    model = progdist.load(run, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        draw = progdist.Pretrained.sample
        patch.setattr(
            progdist.Pretrained, "sample", lambda *a, **k: draw(*a, **k, **BATCH)
        )
        write(model, path / "exported", ["safetensors", "hub"])
    shutil.copy(path / "exported" / "params.safetensors", path / "one.safetensors")
    return path


@pytest.fixture(scope="module")
def model(places):
    """The student of one step, from the workdir of its run."""
    return progdist.load(places / "run", steps=1)


@pytest.fixture(scope="module")
def images(model):
    """Nine images of seed 7."""
    return model.sample(9, seed=7, **BATCH)


# --- one model


@pytest.mark.parametrize("place", PLACES)
def test_a_model_is_the_same_wherever_it_lies(place, places, model):
    found = progdist.load(str(places / place))
    assert (found.model, found.num_steps, found.digest) == (
        model.model,
        1,
        model.digest,
    )
    assert found.class_names == tuple(CLASSES)
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    for name in ("net", "output", "schedule", "image_shape", "data", "commit"):
        assert found.card[name] == json.loads(json.dumps(model.card[name]))


def test_the_command_and_the_export_draw_the_images_of_the_library(
    places, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "prepare", lambda *_: None)  # done already
    words = (
        "--steps=1",
        "--seed=7",
        "-n=9",
        "--batch_size=31",
        f"--out={tmp_path}/a.npz",
    )
    sample.main(["progdist sample", f"{places}/run", *words])
    with np.load(tmp_path / "a.npz") as drawn:
        np.testing.assert_array_equal(drawn["arr_0"], images)
        assert list(drawn["labels"]) == [0, 1, 2] * 3
    exported = progdist.load(places / "exported" / "hub")
    np.testing.assert_array_equal(exported.sample(9, seed=7, **BATCH), images)


def test_images_are_bytes_that_depend_on_seed_and_number_alone(model, images):
    assert (images.dtype, images.shape) == (np.uint8, (9, 8, 8, 1))
    np.testing.assert_array_equal(model.sample(4, seed=7, **BATCH), images[:4])
    np.testing.assert_array_equal(
        model.sample(40, seed=7, **BATCH)[:9], images
    )  # of two batches
    rest = list(model.batches(9, seed=7, start=4, **BATCH))
    np.testing.assert_array_equal(np.concatenate(rest), images[4:])
    assert not np.array_equal(model.sample(9, seed=8, **BATCH), images)


@pytest.mark.parametrize(
    ("label", "numbers"),
    [
        ("dog", [1]),
        (1, [1]),
        ("1", [1]),
        ("great owl", [2]),
        (["great owl", 0], [2, 0]),
        (range(3), [0, 1, 2]),
        (None, []),
    ],
)
def test_a_class_goes_by_its_name_or_number(label, numbers, model):
    assert model.labels(label) == numbers


def test_the_classes_are_drawn_in_turn(model, images):
    """Image i has noise of its own, whatever its class."""
    drawn = [model.sample(9, seed=7, label=name, **BATCH) for name in CLASSES]
    assert len({images[0].tobytes() for images in drawn}) == 3
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, drawn[i % 3][i])
    two = model.sample(9, seed=7, label=["dog", "cat"], **BATCH)
    np.testing.assert_array_equal(two[::2], drawn[1][::2])
    np.testing.assert_array_equal(two[1::2], drawn[0][1::2])


def test_classes_without_names_go_by_their_numbers(model):
    card = {name: v for name, v in model.card.items() if name != "class_names"}
    bare = progdist.Pretrained(model.model, model.params, card, 1)
    assert bare.class_names == ("0", "1", "2")
    assert bare.labels(["2", 0]) == [2, 0]


def test_the_teacher_takes_any_number_of_steps(places):
    own = progdist.load(places / "run", teacher=True)
    assert own.num_steps == 4
    other = progdist.load(places / "run", steps=3, teacher=True)
    assert (other.num_steps, other.digest) == (3, own.digest)
    path = places / "run/models/phase_00_steps_4"
    assert progdist.load(path, steps=3).num_steps == 3
    assert other.trajectory(2, label="cat").shape == (4, 2, 8, 8, 1)


def test_denoise_is_the_bound_model_inside_and_outside_of_jit_and_grad(model):
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    label = Conditioning(jnp.array([2, 0, 1]))
    levels = jnp.array([-3.0, 0.5, 7.0])
    exact = jax.jit(bind(model.model, model.params))(z, levels, label)
    found = model.denoise(z, levels, label)
    for name in ("x", "eps", "v"):
        ours, theirs = getattr(found, name), getattr(exact, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    one = model.denoise(z, 0.5, label)
    np.testing.assert_allclose(one.x[1], exact.x[1], atol=1e-5)
    np.testing.assert_array_equal(one.x, model.denoise(z, jnp.full(3, 0.5), label).x)

    @jax.jit
    @jax.value_and_grad
    def first(z):
        return model.denoise(z, levels, label).x[0].sum()

    value, slope = first(z)
    np.testing.assert_allclose(value, exact.x[0].sum(), rtol=1e-4, atol=1e-4)
    assert abs(slope[0]).max() > 0
    assert not slope[1:].any()  # an image depends on its own noise alone


# --- cards


def test_a_card_says_what_the_model_is_and_where_it_comes_from(places):
    card = progdist.load(places / "alone").card
    assert (card["phase"], card["num_steps"], card["num_classes"]) == (2, 1, 3)
    assert (card["output"], card["schedule"]) == ("v", "cosine")
    assert card["image_shape"] == [8, 8, 1]
    assert card["class_names"] == CLASSES
    assert card["net"]["ch"] == 16
    assert {**card["data"], "content": ""} == {
        **{"name": "digits", "split": "train", "count": 1797},
        "content": "",
    }
    assert len(card["data"]["content"]) >= 16
    assert card["commit"]
    assert {"progdist", "jax", "numpy"} <= set(card["versions"])
    assert card["distances"] == []


def test_distances_of_the_model_join_its_card_and_its_exports(places, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(places / "alone", path)
    ours = evaluation(2, "student", "ddim", 1, 3.5)
    others = (
        evaluation(1, "student", "ddim", 2, 9.0),
        evaluation(0, "teacher", "ddim", 1, 9.0),
    )
    names = ("cat", "dog", "great owl")
    rows = [EvalRow(**row, class_names=names) for row in (others[0], ours, others[1])]
    rows += [dataclasses.replace(rows[1], value=9.0, params="an earlier model")]
    cards.write_distances(path, rows)
    model = progdist.load(path)
    assert [row["value"] for row in model.card["distances"]] == [3.5]
    write(model, tmp_path / "out", ["safetensors"])
    exported = progdist.load(tmp_path / "out")
    assert exported.card["distances"] == model.card["distances"]
    cards.write_distances(path, [])
    assert progdist.load(path).card["distances"] == []


def test_damage_beside_the_distances_is_found(places, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(places / "alone", path)
    write_jsonl(path / layout.DISTANCES, [])
    progdist.load(path)
    (path / "stranger").touch()
    with pytest.raises(CheckpointError, match="stranger: does not belong there"):
        progdist.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n{}\n", "distances.jsonl, line 1: not JSON"),
        ('{"phase": 2}\n', "distances.jsonl: a row lacks role, "),
        ("[1]\n", "line 1: not a JSON object"),
        (b"\xff\n", "line 1: not JSON"),
    ],
)
def test_damaged_distances_are_one_line(text, message, places, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(places / "alone", path)
    content = text if isinstance(text, bytes) else text.encode()
    (path / layout.DISTANCES).write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        progdist.load(path)
    assert "\n" not in str(refused.value)


def test_a_card_of_version_0_2_0_is_completed_by_its_run(places, model, tmp_path):
    """Elsewhere it draws from the workdir of its run alone, and says so."""
    facts = "phase", "num_steps", "output", "schedule", "image_shape", "class_names"
    old = {name: model.card[name] for name in facts}
    path = checkpoint.model_dir(tmp_path, 2, 1)
    checkpoint.save_model(path, model.params, old)
    shutil.copy(places / "run" / "config.json", tmp_path / "config.json")
    for place in (tmp_path, path):
        found = progdist.load(place, steps=1)
        assert (found.model, found.digest) == (model.model, model.digest)
        assert found.class_names == tuple(CLASSES)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 'net'; a model of .* workdir"):
        progdist.load(path)


# --- damaged and hostile cards

HOSTILE = [
    ({"num_steps": 0}, "num_steps is not a whole number, 1 or more: 0"),
    ({"num_steps": -1}, "num_steps is not a whole number, 1 or more: -1"),
    ({"num_steps": True}, "no card of progdist"),
    ({"num_steps": "4"}, None),  # in a file it is the number
    ({"num_steps": 4.0}, "no card of progdist"),
    ({"num_steps": 10**9}, "num_steps is above 16,777,216"),
    ({"num_steps": 10**30}, "num_steps is not a whole number"),
    ({"num_steps": None}, "no card of progdist"),
    ({"phase": -1}, "phase is not a whole number, 0 or more"),
    ({"phase": [1]}, "phase is not a whole number"),
    ({"net": None}, "lacks 'net'"),
    ({"net": "unet"}, "not written by this version of progdist"),
    ({"net": [1]}, "not written by this version of progdist"),
    ({"net": {"depth": 3}}, "'depth' is no field of version "),
    ({"net": {"ch": "16"}}, "net.ch='16': must be of type int"),
    ({"net": {"ch": 2**31}}, "not written by this version|sizes beyond any array"),
    ({"net": {"ch": 10**9}}, "net.ch=1000000000: must be at most 65,536"),
    ({"net": {"ch_mult": 3}}, "not written by this version of progdist"),
    ({"net": {"ch_mult": ["1"]}}, "net.ch_mult=.*: must be a tuple of integers"),
    ({"net": {"ch_mult": [10**12]}}, "sizes beyond any array"),
    ({"net": {"ch_mult": [1] * 40}}, "net.ch_mult="),
    ({"net": {"num_classes": True}}, "net.num_classes=True: must be of type int"),
    ({"net": {"num_classes": 2**31}}, "class_names=|has shape"),
    ({"net": {"dtype": "float8"}}, "net.dtype='float8': must be one of"),
    ({"net": {"head_dim": 0.5}}, "net.head_dim=0.5: must be of type int"),
    ({"output": "w"}, "parameterization='w': must be one of x, eps, v, both"),
    ({"output": ""}, "must be one of x, eps, v, both"),
    ({"schedule": "exp"}, "schedule='exp': must be one of cosine, "),
    ({"schedule": None}, "lacks 'schedule'"),
    ({"image_shape": ["8", "8", "1"]}, "image_shape=.* must be a tuple of integers"),
    ({"image_shape": "881"}, "not written by this version of progdist"),
    ({"image_shape": [8, 8]}, r"must be \(height, width, 1 or 3\)"),
    ({"image_shape": [8, 8, 2]}, r"must be \(height, width, 1 or 3\)"),
    ({"image_shape": [0, 8, 1]}, r"must be \(height, width, 1 or 3\)"),
    ({"image_shape": [2**20, 2**20, 1]}, "sizes beyond any array"),
    ({"image_shape": [2**62, 2**62, 1]}, "sizes beyond any array"),
    ({"image_shape": [10**30, 8, 1]}, "sizes beyond any array|divisible"),
    ({"image_shape": [8.0, 8, 1]}, "must be a tuple of integers"),
    ({"image_shape": None}, "lacks 'image_shape'"),
    ({"class_names": "cat"}, "class_names is not a list of strings"),
    ({"class_names": [1, 2, 3]}, "class_names is not a list of strings"),
    ({"class_names": ["cat"]}, "class_names=.*: must be 3 names"),
    ({"data": 3}, "data is not an object"),
    ({"data": {"name": "digits"}}, "data lacks split, count"),
    ({"data": {"name": 1, "split": "b", "count": 1}}, "data.name is not a string"),
    ({"distances": 3}, "distances is not a list of objects"),
    ({"distances": [{"value": 1}]}, "distances lacks phase, "),
    ({"distances": "[" * 100_000}, "distances is not a list of objects"),
]


@pytest.fixture
def unchecked():
    """Types are not checked, as where a user runs it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def changed(card, changes):
    """A card with other fields; None takes one away, a dict of `net` adds to it."""
    net = changes.get("net")
    if isinstance(net, dict):
        changes = {"net": card["net"] | net}
    card = {k: v for k, v in card.items() if k != "content"} | changes
    return {name: value for name, value in card.items() if value is not None}


@pytest.mark.parametrize(("changes", "message"), HOSTILE)
def test_a_hostile_card_of_a_file_is_one_line(
    changes, message, places, model, tmp_path, unchecked
):
    """Also those of the Hub, which keep the card in the same place."""
    card = changed(model.card, changes)
    notes = {n: v if isinstance(v, str) else json.dumps(v) for n, v in card.items()}
    params = load_file(places / "one.safetensors")
    save_file(params, tmp_path / "model.safetensors", notes)
    if message is None:
        assert progdist.load(tmp_path).num_steps == 4
        return
    with pytest.raises(CheckpointError, match=message) as refused:
        progdist.load(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}/model.safetensors: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "number",
    [0, 2, 6, 10, 13, 14, 27, 29, 34, 40, 43],
    ids=lambda n: str(HOSTILE[n][0]),
)
def test_a_hostile_card_of_a_directory_is_one_line(number, model, tmp_path, unchecked):
    changes, message = HOSTILE[number]
    card = changed(model.card, changes)
    checkpoint.save_model(tmp_path / "m", model.params, card)
    message = message.replace("no card of progdist", "holds no model")
    with pytest.raises(CheckpointError, match=message) as refused:
        progdist.load(tmp_path / "m")
    assert "\n" not in str(refused.value)


# --- what is asked of a model


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"label": "dgo"},
            "label=dgo: is not one of cat, dog, great owl; did you mean dog",
        ),
        ({"label": 3}, "label=3: is not one of cat, dog, great owl"),
        ({"label": -1}, "label=-1: is not one of"),
        ({"label": ["cat", "owl"]}, "label=owl: is not one of"),
        ({"num": 0}, "num=0: must be a whole number, 1 to"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number, 1"),
        ({"sampler": "heun"}, "makes 2 network calls per step"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(asked, message, model):
    with pytest.raises(UsageError, match=message):
        model.sample(**{"num": 1, **BATCH, **asked})


@pytest.mark.parametrize(
    ("place", "more", "message"),
    [
        ("none", {}, "none: no such file or directory"),
        ("run", {}, "run has models of 1, 2, 4 steps"),
        ("run", {"steps": 3}, "num_steps=3: no such finished model in .* 1, 2, 4"),
        ("run/models", {}, "holds no model; pass a workdir, a directory of models/"),
        ("run/config.json", {}, "has no card"),
        ("alone", {"steps": 2}, "num_steps=2: .*alone is a student of 1 steps"),
        ("run/models/phase_00_steps_4", {"steps": 0}, "num_steps=0: must be 1 to "),
        ("run/models/phase_00_steps_4", {"steps": 2**25}, "must be 1 to 16,777,216"),
    ],
)
def test_what_is_not_there_is_one_line(place, more, message, places):
    with pytest.raises(InputError, match=message) as refused:
        progdist.load(places / place, **more)
    assert "\n" not in str(refused.value)
