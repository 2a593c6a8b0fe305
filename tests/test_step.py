import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from progdist import parallel
from progdist.diffusion import logsnr_bins
from progdist.diffusion.schedules import Cosine
from progdist.parallel import REPLICATED, ROWS
from progdist.trainer import step
from progdist.trainer.gradient import Division
from progdist.trainer.state import (
    TrainState,
    init_state,
    learning_rate,
    make_optimizer,
)
from tests import tiny

RATE = functools.partial(learning_rate, peak=0.1, warmup_updates=0, anneal="linear")
LOSSES = {
    "base": step.make_base_loss(tiny.model(), weight="truncated_snr"),
    "distill": step.make_distill_loss(
        tiny.model(), tiny.model(), weight="truncated_snr", ratio=2
    ),
}


KEY = jax.random.key(3)


def make_train_step(loss, optimizer, mesh, rate=RATE, **division):
    return step.make_train_step(
        loss, optimizer, rate=rate, ema_rate=lambda _: 0.1, mesh=mesh, **division
    )


def state_of(params):
    return TrainState(jnp.int32(0), params, None, ())


def train(loss, num_devices, num_steps=(4,), updates=3, optimizer=None, **division):
    """Parameters and metrics after some updates of each round, on some devices."""
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    optimizer = optimizer or optax.identity()
    train_step = make_train_step(loss, optimizer, mesh, **division)
    state = parallel.place(init_state(tiny.params(), optimizer, True), mesh)
    for n in num_steps:
        constants = jnp.int32(n), jnp.int32(10), jax.random.key(n)
        round_ = step.Round(*parallel.place((tiny.params(1), *constants), mesh))
        for _ in range(updates):
            batch = parallel.shard(tiny.batch(8), mesh)
            state, metrics = jax.block_until_ready(train_step(state, round_, batch))
    return state, metrics


@pytest.mark.parametrize("kind", LOSSES)
def test_eight_devices_equal_one(kind):
    """With plain gradient descent, which a wrong factor in the gradient changes."""
    one, eight = (train(LOSSES[kind], n) for n in (1, 8))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_one_trace_serves_all_rounds():
    traces = []

    def counted(*args):
        traces.append(1)
        return LOSSES["distill"](*args)

    train(
        counted,
        2,
        num_steps=(4096, 64, 1),
        updates=2,
        optimizer=make_optimizer(),
    )
    assert len(traces) == 1


def test_random_numbers_do_not_depend_on_the_number_of_devices():
    key, image = jax.random.key(0), tiny.batch(8).image

    def drawn(num_devices):
        mesh = parallel.make_mesh(jax.devices()[:num_devices])
        draw = parallel.pmap(step.draw, mesh, (REPLICATED, ROWS), ROWS)
        draws = draw(parallel.place(key, mesh), parallel.shard(image, mesh))
        return draws.u, draws.eps, jax.random.key_data(draws.dropout_keys)

    for a, b in zip(drawn(1), drawn(8), strict=True):
        np.testing.assert_array_equal(a, b)


def times(num_devices=1, **settings):
    """The times of a batch of 64."""
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    draw = functools.partial(step.draw, **settings)
    rows = parallel.shard(tiny.batch(64).image, mesh)
    return np.array(parallel.pmap(draw, mesh, (REPLICATED, ROWS), ROWS)(KEY, rows).u)


@pytest.mark.parametrize("num_groups", [1, 4])
def test_times_cover_the_unit_interval_evenly(num_groups):
    """Those of the batch, and those of each group of consecutive rows."""
    u = times(num_groups=num_groups)
    assert min(u) >= 0
    assert max(u) < 1
    np.testing.assert_allclose(np.diff(np.sort(u)), 1 / 64, atol=1e-6)
    for group in np.split(u, num_groups):
        np.testing.assert_allclose(np.diff(np.sort(group)), num_groups / 64, atol=1e-6)


def test_independent_times_are_uniform_whatever_the_number_of_devices():
    u = times(times="independent")
    np.testing.assert_array_equal(u, times(8, times="independent"))
    assert len(np.unique(u)) == 64
    # By Kolmogorov's test at 0.1 %; an even grid has gaps of 1 / 64 alone.
    assert abs(np.sort(u) - np.arange(64) / 64).max() < 1.95 / 8
    assert np.diff(np.sort(u)).max() > 2 / 64


def test_two_updates_see_different_noise():
    key, image = jax.random.key(0), tiny.batch(8).image
    mesh = parallel.make_mesh(jax.devices()[:1])
    draw = parallel.pmap(step.draw, mesh, (REPLICATED, ROWS), ROWS)
    first, second = (draw(jax.random.fold_in(key, s), image) for s in (0, 1))
    assert not np.allclose(first.eps, second.eps)
    assert len(np.unique(np.asarray(first.eps))) == first.eps.size


def test_metrics_report_the_gradient_before_clipping_and_the_rate():
    parts = {"optimizer": make_optimizer(), "division": Division(clip_norm=1e-6)}
    state, metrics = train(LOSSES["base"], 1, updates=3, **parts)
    assert metrics.grad_norm > 1e-3
    np.testing.assert_allclose(metrics.learning_rate, 0.1 * (1 - 2 / 10), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.param_norm, optax.tree.norm(state.params), rtol=1e-6
    )


def test_the_parts_by_logsnr_are_those_of_the_loss():
    """Over a round of four steps, t = 1/4, 1/2, 3/4, 1, each with a share of 1/4."""
    metrics = train(LOSSES["distill"], 8, updates=1)[1]
    parts, shares = (np.asarray(x) for x in metrics.by_logsnr)
    np.testing.assert_allclose(parts.sum(), metrics.loss, rtol=1e-6)
    expected = np.zeros(len(logsnr_bins.CENTRES))
    expected[
        np.digitize(Cosine()(jnp.array([0.25, 0.5, 0.75, 1])), logsnr_bins.EDGES) - 1
    ] = 1
    np.testing.assert_array_equal(shares, expected / 4)
    assert ((parts > 0) == (shares > 0)).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_says_at_which_logsnr_it_was_taken(kind):
    """That which the network saw."""
    seen = []

    class Spy(tiny.TinyNet):
        def __call__(self, z, logsnr, conditioning=None, dropout=None):
            seen.append(logsnr)
            return z

    model = tiny.model(net=Spy())
    loss = {
        "base": step.make_base_loss(model, weight="constant"),
        "distill": step.make_distill_loss(model, model, weight="constant", ratio=2),
    }[kind]
    round_ = step.Round({}, jnp.int32(3), jnp.int32(10), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)
    examples = loss(state_of({}), round_, batch, draws)
    np.testing.assert_array_equal(examples.logsnr_t, seen[-1])


def test_the_distilled_round_leaves_its_teacher_alone():
    """The gradient with respect to the whole round is zero."""
    round_ = step.Round(tiny.params(1), jnp.int32(4), jnp.int32(10), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)

    def loss(teacher_params):
        round_now = round_._replace(teacher_params=teacher_params)
        state = state_of(tiny.params())
        return LOSSES["distill"](state, round_now, batch, draws).loss.sum()

    gradient = jax.grad(loss)(round_.teacher_params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["batch", "params", "rate"])
def test_an_update_that_is_not_finite_is_not_committed(bad, where):
    """Of its batch, its gradient, or the parameters that it would leave."""
    mesh = parallel.make_mesh(jax.devices()[:2])
    optimizer, rate = make_optimizer(weight_decay=0.1), RATE
    if where == "rate":
        rate = functools.partial(RATE, peak=3e38 if bad > 0 else bad)
    train_step = make_train_step(LOSSES["base"], optimizer, mesh, rate)
    params, batch = tiny.params(), tiny.batch(8)
    if where == "batch":
        batch.image[3, 0, 0, 0] = bad
    if where == "params":
        params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"].at[0, 0].set(bad)
    state = parallel.place(init_state(params, optimizer, True), mesh)
    before = jax.tree.map(np.array, state)
    constants = jnp.int32(1), jnp.int32(10), jax.random.key(0)
    round_ = step.Round((), *parallel.place(constants, mesh))
    after, metrics = train_step(state, round_, parallel.shard(batch, mesh))
    assert not all(np.isfinite(value) for value in metrics[:-1])
    assert after.step == before.step + 1
    for old, new in zip(
        jax.tree.leaves(before._replace(step=after.step)),
        jax.tree.leaves(after),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(("num_groups", "reductions"), [(1, 1), (2, 2), (8, 1)])
def test_the_step_reduces_gradients_together_and_asks_nothing_of_the_host(
    num_groups, reductions
):
    """Once, or twice where a group spans some of the devices."""
    mesh = parallel.make_mesh(jax.devices()[:8])
    optimizer, division = make_optimizer(), Division(1.0, num_groups)
    train_step = make_train_step(LOSSES["distill"], optimizer, mesh, division=division)
    state = parallel.place(init_state(tiny.params(), optimizer, True), mesh)
    constants = jnp.int32(1), jnp.int32(10), jax.random.key(0)
    round_ = step.Round(*parallel.place((tiny.params(1), *constants), mesh))
    batch = parallel.shard(tiny.batch(8), mesh)
    text = train_step.lower(state, round_, batch).compile().as_text()
    assert len(re.findall(r"= .* all-reduce(?:-start)?\(", text)) == reductions
    for transfer in ("infeed", "outfeed", "send(", "recv(", "callback", "all-gather"):
        assert transfer not in text


@functools.cache
def draw_on_one_device():
    mesh = parallel.make_mesh(jax.devices()[:1])
    return parallel.pmap(step.draw, mesh, (REPLICATED, ROWS), ROWS)


def drawn(number):
    """The random numbers of eight examples at the update of that number."""
    key = jax.random.fold_in(jax.random.key(0), number)
    return draw_on_one_device()(key, tiny.batch(8).image)


def test_the_grid_of_times_moves_over_the_whole_of_its_step():
    """So that each u is uniform in [0, 1); of 24 draws two are far apart."""
    offsets = np.sort([8 * min(drawn(number).u) for number in range(24)])
    assert 0 <= offsets[0] < 0.2
    assert 0.8 < offsets[-1] < 1
    assert np.diff(offsets).max() < 0.4


def test_noise_and_dropout_have_keys_of_their_own():
    draws = drawn(0)
    words = jax.random.key_data(draws.dropout_keys)
    assert len(np.unique(words, axis=0)) == len(words)
    for key, eps in zip(draws.dropout_keys, draws.eps, strict=True):
        assert not np.any(jax.random.normal(key, eps.shape) == eps)


@pytest.mark.parametrize("kind", LOSSES)
def test_each_update_has_random_numbers_of_its_own(kind):
    """At a rate of 0, which leaves the parameters, the loss of a batch changes."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    still = functools.partial(RATE, peak=0.0)
    optimizer = optax.identity()
    train_step = make_train_step(LOSSES[kind], optimizer, mesh, rate=still)
    state = parallel.place(init_state(tiny.params(), optimizer, False), mesh)
    constants = tiny.params(1), jnp.int32(4), jnp.int32(10), jax.random.key(0)
    round_ = step.Round(*parallel.place(constants, mesh))
    losses = []
    for _ in range(2):
        batch = parallel.shard(tiny.batch(8), mesh)
        state, metrics = train_step(state, round_, batch)
        losses.append(float(metrics.loss))
    assert losses[0] != losses[1]


def test_a_round_learns_from_its_own_teacher():
    """The loss follows the teacher's parameters, and the student's."""
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)

    def loss(student, teacher):
        constants = jnp.int32(4), jnp.int32(10), jax.random.key(0)
        round_ = step.Round(tiny.params(teacher), *constants)
        state = state_of(tiny.params(student))
        return float(LOSSES["distill"](state, round_, batch, draws).loss.sum())

    assert loss(0, 1) != loss(0, 2)
    assert loss(0, 1) != loss(2, 1)


def test_the_base_model_is_trained_with_its_labels_and_dropout():
    seen = []

    class Spy(tiny.TinyNet):
        def __call__(self, z, logsnr, conditioning=None, dropout=None):
            seen.append((conditioning, dropout))
            return z

    loss = step.make_base_loss(tiny.model(net=Spy()), weight="constant", dropout=0.25)
    round_ = step.Round((), jnp.int32(1), jnp.int32(10), jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, tiny.batch(4))
    keys = jax.random.split(jax.random.key(1), 4)
    draws = step.Draws(jnp.linspace(0, 0.9, 4), jnp.ones_like(batch.image), keys)
    loss(state_of({}), round_, batch, draws)
    ((conditioning, dropout),) = seen
    assert conditioning.label is batch.label
    assert dropout.keys is keys
    assert dropout.rate == 0.25
