"""Theorems of the training losses, and of progressive distillation itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progdist.diffusion import logsnr_bins
from progdist.diffusion.losses import (
    base_loss,
    by_logsnr,
    distill_loss,
    loss_weight,
)
from progdist.diffusion.prediction import Prediction, from_output
from progdist.diffusion.samplers import sample
from progdist.diffusion.schedules import Cosine
from progdist.diffusion.targets import multi_step_target, two_step_target
from tests import toy
from tests.toy import alpha_sigma, float64, unchecked

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SCHEDULE = Cosine()
TEACHER = toy.two_modes(0.5, 0.2)
ALL_STEPS = [2**k for k in range(13)]  # N = 1 … 4096


def _logsnr(t):
    """The cosine schedule's log-SNR from the end that t is nearer to, in float64."""
    b = np.arctan(np.exp(-10))
    angle = (np.pi / 2 - 2 * b) * np.minimum(t, 1 - t) + b
    return np.sign(t - 0.5) * 2 * np.log(np.tan(angle))


def _indices(num_steps, b=64):
    """b step indices spread over 1 … N, both ends included."""
    return np.linspace(1, num_steps, b).round().astype(np.int32)


def _z(b=64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(b, 3)), jnp.float32)


def _x_hat(z, logsnr):
    """The teacher's float64 prediction for float64 z [b, 3] at logsnr [b]."""
    return np.asarray(TEACHER(jnp.asarray(z), jnp.asarray(logsnr)).x)


def _teacher_lands(z_t, i, num_steps, ratio):
    """Where `ratio` DDIM steps of the teacher go from t = i/N, in float64.

    The last step before the data returns x̂, as the sampler does.
    """
    z = np.asarray(z_t, np.float64)
    for j in range(ratio):
        t, s = ((ratio * i - j - k) / (ratio * num_steps) for k in (0, 1))
        x = _x_hat(z, _logsnr(t))
        z_s = toy.ddim_step(z, x, _logsnr(t)[:, None], _logsnr(s)[:, None])
        z = np.where(s[:, None] == 0, x, z_s)
    return z


def _student_lands(z_t, x, i, num_steps):
    """Where one DDIM step with the prediction x goes from t = i/N."""
    t, s = i / num_steps, (i - 1) / num_steps
    z_s = toy.ddim_step(z_t, x, _logsnr(t)[:, None], _logsnr(s)[:, None])
    return np.where(s[:, None] == 0, x, z_s)


def _by_subtraction(z_t, i, num_steps):
    """x_tilde as the paper prints it (algorithm 2), in float64; not for i = 1."""
    t, s = i / num_steps, (i - 1) / num_steps
    z_s = _teacher_lands(z_t, i, num_steps, 2)
    alpha_t, sigma_t = alpha_sigma(_logsnr(t)[:, None])
    alpha_s, sigma_s = alpha_sigma(_logsnr(s)[:, None])
    share = sigma_s / sigma_t
    return (z_s - share * z_t) / (alpha_s - share * alpha_t)


@functools.cache
def _target_of(ratio):
    """One compilation for every N."""
    return jax.jit(
        lambda z, i, num_steps: multi_step_target(
            [TEACHER] * ratio, SCHEDULE, z, i=i, num_steps=num_steps
        )
    )


# The weights


@pytest.mark.parametrize("weight", ["constant", "snr", "truncated_snr", "snr_plus_one"])
@float64
def test_each_weight_is_the_error_that_it_claims(weight):
    rng = np.random.default_rng(3)
    x, eps = rng.uniform(-1, 1, (6, 2, 2)), rng.normal(size=(6, 2, 2))
    t = np.linspace(0.03, 0.97, 6)
    alpha, sigma = alpha_sigma(_logsnr(t)[:, None, None])
    p = TEACHER(jnp.asarray(alpha * x + sigma * eps), jnp.asarray(_logsnr(t)))
    error_x, error_eps, error_v = (
        np.mean(np.square(truth - guess), axis=(1, 2))
        for truth, guess in [(x, p.x), (eps, p.eps), (alpha * eps - sigma * x, p.v)]
    )
    expected = {
        "constant": error_x,
        "snr": error_eps,
        "truncated_snr": np.maximum(error_x, error_eps),
        "snr_plus_one": error_v,
    }[weight]
    loss = jax.jit(
        lambda x, t, eps: base_loss(TEACHER, SCHEDULE, x=x, t=t, eps=eps, weight=weight)
    )(x, t, eps)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_an_unknown_weight_is_refused():
    with pytest.raises(ValueError, match="loss weight: 'edm' is not one of"):
        unchecked(loss_weight)(jnp.ones(1), "edm")


@float64
def test_the_exact_denoiser_has_the_smallest_base_loss():
    # on average E[x | z] beats any other guess, here those right for other data
    noise, eps = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4096, 1)))
    x, t = 0.2 + 0.5 * noise, jnp.full(4096, 0.4)
    loss = jax.jit(base_loss, static_argnames=("denoise", "schedule", "weight"))
    right, *wrong = (
        loss(toy.gaussian(*data), SCHEDULE, x=x, t=t, eps=eps, weight="constant").mean()
        for data in [(0.2, 0.5), (0.5, 0.5), (0.2, 1.0), (0.2, 0.2)]
    )
    assert right < min(wrong)


# The target


@pytest.mark.parametrize("num_steps", ALL_STEPS[1:])
@float64
def test_the_target_equals_the_published_subtraction(num_steps):
    i = _indices(num_steps)
    i = np.where(i == 1, 2, i)  # at i = 1 the sampler returns x̂ and they part
    z_t = np.asarray(_z(), np.float64)
    target = _target_of(2)(jnp.asarray(z_t), jnp.asarray(i), num_steps)
    np.testing.assert_allclose(target, _by_subtraction(z_t, i, num_steps), atol=1e-10)


@pytest.mark.parametrize("num_steps", ALL_STEPS)
@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_one_student_step_lands_where_the_teachers_steps_land(num_steps, ratio):
    # float32 throughout the target. The teacher's slope is 1/std² = 25 at most, its
    # input of size 4 carries a rounding of 2.4e-7.
    i, z_t = _indices(num_steps), _z()
    x_tilde = _target_of(ratio)(z_t, jnp.asarray(i), num_steps)
    assert x_tilde.dtype == np.float32
    with jax.enable_x64(True):
        teacher = _teacher_lands(z_t, i, num_steps, ratio)
    np.testing.assert_allclose(
        _student_lands(z_t, x_tilde, i, num_steps), teacher, atol=25 * 2.4e-7
    )


def test_the_target_itself_keeps_its_digits_in_float32():
    num_steps = 4096
    i, z_t = _indices(num_steps), _z()
    narrow = _target_of(2)(z_t, jnp.asarray(i), num_steps)
    with jax.enable_x64(True):
        wide = _target_of(2)(z_t.astype(jnp.float64), jnp.asarray(i), num_steps)
    np.testing.assert_allclose(narrow, wide, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 4096])
def test_at_the_data_the_target_is_the_second_prediction(num_steps):
    z_t, i = _z(), jnp.ones(64, jnp.int32)
    with jax.enable_x64(True):
        z = np.asarray(z_t, np.float64)
        t, t_mid = np.full(64, 1 / num_steps), np.full(64, 0.5 / num_steps)
        x = _x_hat(z, _logsnr(t))
        z_mid = toy.ddim_step(z, x, _logsnr(t)[:, None], _logsnr(t_mid)[:, None])
        x_mid = _x_hat(z_mid, _logsnr(t_mid))
    target = _target_of(2)(z_t, i, num_steps)
    np.testing.assert_allclose(target, x_mid, atol=25 * 2.4e-7)


@float64
def test_the_two_step_target_has_the_stated_weights():
    # w x̂(z_t) + (1 - w) x̂(z_mid), with w from the two differences in log-SNR
    num_steps, i = 8, np.arange(2, 9)
    z_t = np.asarray(_z(7), np.float64)
    t, mid, s = (_logsnr((i - shift) / num_steps) for shift in (0, 0.5, 1))
    x_t = _x_hat(z_t, t)
    x_mid = _x_hat(toy.ddim_step(z_t, x_t, t[:, None], mid[:, None]), mid)
    w = (np.expm1((mid - t) / 2) / np.expm1((s - t) / 2))[:, None]
    arrays = jnp.asarray(z_t), jnp.asarray(i), num_steps
    target = jax.jit(
        lambda z, i, n: two_step_target(TEACHER, SCHEDULE, z, i=i, num_steps=n)
    )(*arrays)
    np.testing.assert_allclose(target, w * x_t + (1 - w) * x_mid, atol=1e-12)
    np.testing.assert_array_equal(_target_of(2)(*arrays), target)


@pytest.mark.parametrize("ratio", [1, 3])
@float64
def test_a_constant_teacher_is_its_own_target(ratio):
    # the weights are a partition of one, and one teacher step is a student step
    i = jnp.arange(1, 9)
    target = jax.jit(
        lambda z: multi_step_target(
            [toy.point_mass(0.3)] * ratio, SCHEDULE, z, i=i, num_steps=8
        )
    )(jnp.ones((8, 2)))
    np.testing.assert_allclose(target, np.full((8, 2), 0.3), rtol=1e-14)


# The loss


def _network(params, z, logsnr):
    """A little network each of whose three parameters matters."""
    out = params["gain"] * z + params["shift"] + params["time"] * logsnr[:, None] / 20
    out = jnp.tanh(out)
    return from_output(out, z, logsnr, "v")


def _bound(params):
    return functools.partial(_network, params)


PARAMS = {
    "gain": jnp.float32(0.4),
    "shift": jnp.float32(0.1),
    "time": jnp.float32(-0.2),
}
OTHER = {"gain": jnp.float32(0.7), "shift": jnp.float32(-0.1), "time": jnp.float32(0.3)}


def _loss(student, teacher, num_steps):
    x, eps = 0.3 * _z(), _z()[::-1]
    i = jnp.asarray(_indices(num_steps))
    return distill_loss(
        _bound(student),
        [_bound(teacher)] * 2,
        SCHEDULE,
        x=x,
        i=i,
        eps=eps,
        num_steps=num_steps,
        weight="truncated_snr",
    )


@pytest.mark.parametrize("num_steps", [1, 4])
def test_no_gradient_reaches_the_teacher_and_every_student_parameter_gets_one(
    num_steps,
):
    gradients = jax.grad(
        lambda student, teacher: _loss(student, teacher, num_steps).mean(), (0, 1)
    )
    of_student, of_teacher = jax.jit(gradients)(PARAMS, OTHER)
    for name in PARAMS:
        assert of_teacher[name] == 0
        assert abs(of_student[name]) > 1e-4


def test_a_student_that_shares_the_teachers_parameters_is_not_the_teacher():
    # One tree for both: the gradient is that of the student's side alone.
    shared = jax.jit(jax.grad(lambda params: _loss(params, params, 4).mean()))(PARAMS)
    alone = jax.jit(jax.grad(lambda params: _loss(params, PARAMS, 4).mean()))(PARAMS)
    for name in PARAMS:
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-6)


@float64
def test_the_loss_is_the_weighted_distance_to_the_target():
    num_steps, i = 4, np.arange(1, 5)
    x, eps = 0.3 * np.asarray(_z(4), np.float64), np.asarray(_z(8)[4:], np.float64)
    t = _logsnr(i / num_steps)
    alpha, sigma = alpha_sigma(t[:, None])
    z_t = alpha * x + sigma * eps
    student = toy.gaussian(0.1, 0.6)
    x_tilde = _target_of(2)(jnp.asarray(z_t), jnp.asarray(i), num_steps)
    x_hat = student(jnp.asarray(z_t), jnp.asarray(t)).x
    expected = np.maximum(np.exp(t), 1) * np.mean(np.square(x_tilde - x_hat), axis=1)
    loss = jax.jit(
        lambda x, i, eps: distill_loss(
            student,
            [TEACHER] * 2,
            SCHEDULE,
            x=x,
            i=i,
            eps=eps,
            num_steps=num_steps,
            weight="truncated_snr",
        )
    )(x, i, eps)
    assert loss.shape == (4,)
    np.testing.assert_allclose(loss, expected, rtol=1e-9)


def test_one_trace_serves_every_number_of_steps():
    traces = []

    @jax.jit
    def target(z, i, num_steps):
        traces.append(num_steps)
        return two_step_target(TEACHER, SCHEDULE, z, i=i, num_steps=num_steps)

    for num_steps in ALL_STEPS:
        target(_z(), jnp.asarray(_indices(num_steps)), num_steps)
    assert len(traces) == 1


# Distillation as a whole


def _linear(gains):
    """A denoiser with x̂ = gains[i - 1] z at t = i/N, N = len(gains), one a time."""

    def denoise(z, logsnr):
        i = jnp.round(SCHEDULE.inverse(logsnr) * len(gains)).astype(int)
        return from_output(gains[i - 1][:, None] * z, z, logsnr, "x")

    return denoise


def _published_gains(teacher, num_steps):
    """The student's gains in closed form, from those at the teacher's 2N times.

    Everything is a multiple of z_t: two DDIM steps, then algorithm 2's subtraction.
    """
    gains = []
    for i in range(1, num_steps + 1):
        times = np.array([2 * i, 2 * i - 1, 2 * i - 2]) / (2 * num_steps)
        t, mid, s = _logsnr(times)
        z_mid = toy.ddim_step(1.0, teacher[2 * i - 1], t, mid)
        x_mid = teacher[2 * i - 2] * z_mid
        if i == 1:
            gains.append(x_mid)
            continue
        z_s = toy.ddim_step(z_mid, x_mid, mid, s)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
        share = sigma_s / sigma_t
        gains.append((z_s - share) / (alpha_s - share * alpha_t))
    return np.array(gains)


def _distilled(teacher, std):
    """The gains that gradient descent on the loss finds, from those of the teacher.

    The student starts as the teacher at the times that both know.
    """
    student = teacher[1::2]
    i = jnp.tile(jnp.arange(1, len(student) + 1), 8)
    x, eps = jnp.asarray(np.random.default_rng(0).normal(size=(2, len(i), 4)))
    x = std * x

    @jax.jit
    @jax.grad
    def slope(gains):
        n, students = len(gains), _linear(gains)
        return distill_loss(
            students,
            [_linear(teacher)] * 2,
            SCHEDULE,
            x=x,
            i=i,
            eps=eps,
            num_steps=n,
            weight="constant",
        ).sum()

    # The loss is quadratic in each gain; its curvature sets the learning rate.
    curvature = slope(student + 1.0) - slope(student)
    for _ in range(30):
        student -= 0.7 * slope(student) / curvature
    return student


@float64
def test_a_linear_student_converges_to_the_closed_form():
    # Data N(0, std²): the teacher x̂ = alpha std² z / (alpha² std² + sigma²) is linear,
    # and so is its target. Round after round, down to one step, which lands where the
    # first teacher's eight DDIM steps land.
    std, num_steps = 0.5, 8
    alpha, sigma = alpha_sigma(_logsnr(np.arange(1, num_steps + 1) / num_steps))
    first = jnp.asarray(alpha * std**2 / (alpha**2 * std**2 + sigma**2))
    teacher = first
    while num_steps > 1:
        num_steps //= 2
        student = _distilled(teacher, std)
        expected = _published_gains(np.asarray(teacher), num_steps)
        np.testing.assert_allclose(student, expected, rtol=1e-9)
        teacher = student
    z_1 = jnp.linspace(-2.0, 2.0, 5)[None]
    one_step = sample(_linear(teacher), SCHEDULE, z_1, num_steps=1, clip="none")
    eight = sample(_linear(first), SCHEDULE, z_1, num_steps=8, clip="none")
    np.testing.assert_allclose(one_step, eight, atol=1e-9)


@float64
def test_the_gain_of_a_linear_student_is_the_least_squares_one():
    # The loss is quadratic in the gain; its minimum is sum(z x_tilde) / sum(z²).
    num_steps, b = 4, 256
    i, (x, eps) = jnp.full(b, 3), np.random.default_rng(0).normal(size=(2, b, 1))
    x, eps = jnp.asarray(x / 2), jnp.asarray(eps)
    alpha, sigma = alpha_sigma(_logsnr(0.75))
    z_t = np.asarray(alpha * x + sigma * eps)

    def loss(gain):
        return distill_loss(
            lambda z, logsnr: Prediction(gain * z, z, z),
            [TEACHER] * 2,
            SCHEDULE,
            x=x,
            i=i,
            eps=eps,
            num_steps=num_steps,
            weight="snr",
        ).mean()

    target = np.asarray(_target_of(2)(jnp.asarray(z_t), i, num_steps))
    best = float(np.sum(z_t * target) / np.sum(z_t**2))
    slope = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-12)
    assert slope(best - 0.01) < 0 < slope(best + 0.01)


@pytest.mark.parametrize(
    ("logsnr", "centre"),
    [
        (0.0, 0),
        (1e-6, 0),
        (-1e-6, 0),
        (0.99, 0),
        (1.01, 2),
        (-7.2, -8),
        (18.9, 18),
        (20.0, 20),
        (-20.0, -20),
        (50.0, 20),
        (-50.0, -20),
    ],
)
def test_an_example_counts_in_the_bin_around_its_logsnr(logsnr, centre):
    parts, shares = by_logsnr(jnp.array([3.0]), jnp.array([logsnr]))
    expected = [float(c == centre) for c in logsnr_bins.CENTRES]
    np.testing.assert_array_equal(shares, expected)
    np.testing.assert_array_equal(parts, 3 * np.array(expected))


@float64
def test_the_bins_parts_add_up_to_the_mean_loss_and_give_back_each_bins_mean():
    rng = np.random.default_rng(0)
    loss, logsnr = rng.exponential(size=1000), rng.normal(size=1000, scale=12)
    parts, shares = by_logsnr(jnp.asarray(loss), jnp.asarray(logsnr))
    np.testing.assert_allclose(parts.sum(), loss.mean(), rtol=1e-12)
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-12)
    inside = np.digitize(logsnr, logsnr_bins.EDGES[1:-1])  # the outer edges are open
    expected = [loss[inside == k].mean() for k in range(len(logsnr_bins.CENTRES))]
    means = logsnr_bins.means(parts.tolist(), shares.tolist())
    np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_an_empty_bin_has_no_mean():
    assert logsnr_bins.means([0.0, 0.0, 0.5], [0.0, 0.25, 0.75]) == [
        None,
        0.0,
        0.666667,
    ]


@pytest.mark.parametrize("ratio", [2, 3])
def test_the_loss_of_a_student_that_predicts_the_target_is_zero(ratio):
    """Of as many teacher steps as the ratio says, and no other number."""
    num_steps, i, eps = 4, jnp.arange(1, 5), jnp.asarray(_z(4))

    def loss(teacher_steps):
        def student(z_t, logsnr_t):
            x = multi_step_target(
                *([TEACHER] * teacher_steps, SCHEDULE, z_t),
                i=i,
                num_steps=num_steps,
            )
            return Prediction(x, x, x)

        return distill_loss(
            *(student, [TEACHER] * ratio, SCHEDULE),
            x=0.3 * eps,
            i=i,
            eps=eps,
            num_steps=num_steps,
            weight="constant",
        )

    np.testing.assert_array_equal(loss(ratio), 0)
    assert (loss(5 - ratio) > 0).all()
