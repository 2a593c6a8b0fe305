"""Recipes: what the settings of a kind of phase do to its updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from progdist import parallel
from progdist.config import Config, Distillation, Training
from progdist.nets.blocks import drop
from progdist.plan import Phase
from progdist.preflight import Models
from progdist.trainer import recipes
from progdist.trainer.state import init_state
from tests import tiny

COMMON = {
    **{"learning_rate": 0.1, "warmup_updates": 4, "weight_decay": 0.5},
    **{"clip_norm": 1e-4, "ema_decay": 0.75, "ema_warmup": 0},
}
CONFIG = Config(
    base=Training(**COMMON),
    distill=Distillation(**COMMON | {"learning_rate": 0.2, "anneal": "linear"}),
)
ROUND = Phase(
    kind="distill",
    number=1,
    num_steps=4,
    num_updates=10,
    first_update=0,
    batch_size=8,
    passes=5,
)


class Dropping(tiny.TinyNet):
    """A network that has a use for dropout."""

    def __call__(self, z, logsnr, conditioning=None, dropout=None):
        z = super().__call__(z, logsnr)
        return z if dropout is None else drop(z, dropout, "here")


def update(kind, config, step=0):
    """State before and after the update of that number, and its metrics."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    model = tiny.model(net=Dropping())
    recipe = recipes.make_recipe(kind, config, Models(model, model, model), None, mesh)
    before = init_state(tiny.params(), recipe.optimizer, recipe.keeps_ema)
    before = before._replace(step=jnp.int32(step))
    teacher = tiny.params(1) if kind == "distill" else ()
    round_ = recipes.make_round(0, ROUND, parallel.place(teacher, mesh), mesh)
    batch = parallel.shard(tiny.batch(8), mesh)
    after, metrics = recipe.train_step(parallel.place(before, mesh), round_, batch)
    return before, after, metrics


def changed(kind, **settings):
    return dataclasses.replace(
        CONFIG, **{kind: dataclasses.replace(getattr(CONFIG, kind), **settings)}
    )


@pytest.mark.parametrize(("kind", "rate"), [("base", 0.1), ("distill", 0.2)])
def test_the_settings_reach_the_update(kind, rate):
    before, after, metrics = update(kind, CONFIG)
    # A quarter of the way up; the fall begins at 1.
    np.testing.assert_allclose(metrics.learning_rate, rate / 4, rtol=1e-6)
    assert metrics.grad_norm > 100 * 1e-4
    # The clipped gradient is ten times Adam's first moment.
    moment = optax.tree.get(after.opt_state, "mu")
    gradient = jax.tree.map(lambda m: m / 0.1, moment)
    np.testing.assert_allclose(optax.tree.norm(gradient), 1e-4, rtol=1e-5)

    def expected(p, g):
        return p - rate / 4 * (g / (abs(g) + 1e-8) + 0.5 * p)

    params = jax.tree.map(expected, before.params, gradient)
    for ours, theirs in ((after.params, params), (after.ema_params, params)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            ours,
            theirs,
        )


def test_the_average_of_a_kind_has_the_decay_of_its_settings():
    before, after, _ = update("base", changed("base", ema_warmup=0), step=1)
    for old, new, average in zip(
        *map(jax.tree.leaves, (before.params, after.params, after.ema_params)),
        strict=True,
    ):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5)


@pytest.mark.parametrize("kind", ["base", "distill"])
def test_adams_constants_are_those_of_the_settings(kind):
    """After one update its moments are (1 - b1) g and (1 - b2) g²."""
    settings = {"adam_b1": 0.5, "adam_b2": 0.75, "adam_eps": 1e-3, "weight_decay": 0.0}
    before, after, metrics = update(kind, changed(kind, **settings))
    moment, square = (optax.tree.get(after.opt_state, name) for name in ("mu", "nu"))
    for p, q, m, v in zip(
        *map(jax.tree.leaves, (before.params, after.params, moment, square)),
        strict=True,
    ):
        np.testing.assert_allclose(v, m * m, rtol=1e-5)
        step = 2 * m / (abs(2 * m) + 1e-3)
        expected = p - metrics.learning_rate * step
        np.testing.assert_allclose(q, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["base", "distill"])
def test_the_average_of_a_kind_warms_up_as_its_settings_say(kind):
    """At update 6 the rate is 9 / 16, where 1 - ema_decay is a quarter."""
    before, after, _ = update(kind, changed(kind, ema_warmup=10), step=6)
    for old, new, average in zip(
        *map(jax.tree.leaves, (before.params, after.params, after.ema_params)),
        strict=True,
    ):
        np.testing.assert_allclose(average, (7 * old + 9 * new) / 16, rtol=1e-5)


@pytest.mark.parametrize(("anneal", "share"), [("linear", 0.4), ("none", 1.0)])
def test_the_rate_of_a_kind_falls_as_its_settings_say(anneal, share):
    """At update 6 of 10, after the warm-up."""
    metrics = update("base", changed("base", anneal=anneal), step=6)[2]
    np.testing.assert_allclose(metrics.learning_rate, 0.1 * share, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("base", {"dropout": 0.5}),
        ("base", {"weight": "snr"}),
        ("distill", {"dropout": 0.5}),
        ("distill", {"weight": "snr"}),
        ("distill", {"ratio": 3}),
        ("base", {"times": "independent"}),
        ("distill", {"times": "independent"}),
    ],
)
def test_a_setting_changes_the_loss_of_its_kind(kind, setting):
    assert (
        update(kind, CONFIG)[2].loss != update(kind, changed(kind, **setting))[2].loss
    )


@pytest.mark.parametrize("kind", ["base", "distill"])
def test_the_groups_of_a_kind_are_those_of_its_settings(kind):
    """Two opposite unit vectors would cancel: a sum of clipped ones is shorter."""
    moments = [
        optax.tree.get(update(kind, changed(kind, clip_groups=n))[1].opt_state, "mu")
        for n in (1, 4)
    ]
    one, four = map(optax.tree.norm, moments)
    assert four < 0.999 * one


@pytest.mark.parametrize("kind", ["base", "distill"])
def test_micro_batches_of_a_kind_change_nothing_but_rounding(kind):
    whole, parts = (
        update(kind, changed(kind, micro_batch_size=size))[1:] for size in (0, 2)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        whole,
        parts,
    )


def test_the_constants_of_a_round_are_those_of_its_phase():
    mesh = parallel.make_mesh(jax.devices()[:1])
    round_ = recipes.make_round(0, ROUND, (), mesh)
    assert (round_.num_steps, round_.num_updates) == (4, 10)


def test_each_seed_and_phase_has_a_key_of_its_own():
    mesh = parallel.make_mesh(jax.devices()[:1])
    keys = [
        recipes.make_round(seed, ROUND._replace(number=number), (), mesh).key
        for seed in (0, 1)
        for number in (0, 1, 2)
    ]
    words = np.stack([jax.random.key_data(key) for key in keys])
    assert len(np.unique(words, axis=0)) == len(keys)
