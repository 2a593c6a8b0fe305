"""The configured precision is that of every product, in the programs of a run."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import Precision as Lax

from progdist import parallel, preflight
from progdist.config import Config, ConfigError, Precision, load_preset, plan_of
from progdist.data import Batch
from progdist.diffusion.solvers import Span
from progdist.errors import UsageError
from progdist.model import param_template
from progdist.nets.settings import UNetConfig
from progdist.sampling import cards
from progdist.sampling.draw import make_sampler
from progdist.trainer import recipes
from progdist.workdir.rows import EvalRow, read_row
from tests.jaxprs import equations

NAMES = {
    "default": None,
    "high": Lax.HIGH,
    "tensorfloat32": Lax.HIGH,
    "bfloat16_3x": Lax.HIGH,
    "highest": Lax.HIGHEST,
}
PRODUCTS = "dot_general", "conv_general_dilated"
PRODUCT_LINE = re.compile(r"stablehlo\.(?:dot_general|convolution)\b")


def config_with(**precision) -> Config:
    """A network of every kind of layer, at one size."""
    config = load_preset("digits", "smoke")
    config.net = UNetConfig(*(4, 8, (1,), 1, (8,)), num_classes=10, remat="dots")
    config.precision = Precision(**precision)
    return config


def step_of(kind, **precision):
    """The train step of a kind of phase, traced."""
    config, mesh = config_with(**precision), parallel.make_mesh(jax.devices()[:1])
    recipe = recipes.make_recipe(
        kind, config, preflight.make_models(config), None, mesh
    )
    snapshot = recipes.make_template(recipe, 0, mesh)
    key = jax.eval_shape(jax.random.key, 0)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    round_ = recipes.steps.Round(snapshot.teacher_params, number, number, key)
    batch = Batch(np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int32))
    return recipe.train_step.trace(snapshot.state, round_, batch)


def sampler_of(precision):
    """A sampler, traced."""
    config, mesh = (
        config_with(training=precision),
        parallel.make_mesh(jax.devices()[:1]),
    )
    model = preflight.make_model(config)
    rows = np.zeros(2, np.int32)
    key = jax.eval_shape(jax.random.key, 0)
    args = param_template(model, mesh), key, rows, rows, np.int32(4)
    params, key, indices, label, steps = args
    z, span = np.zeros((2, 8, 8, 1), np.float32), Span(steps, np.int32(0), steps)
    advance = make_sampler(model, mesh).advance
    return advance.trace(params, key, z, indices, label, span)


def of_products(traced):
    """The precision of every product of a program."""
    found = [
        equation.params["precision"] or (None, None)
        for equation in equations(traced.jaxpr)
        if equation.primitive.name in PRODUCTS
    ]
    assert all(one == other for one, other in found)
    return [one for one, _ in found]


@pytest.fixture(scope="module")
def distill():
    """A step of distillation, traced, in two precisions."""
    return step_of("distill", training="bfloat16_3x", target="highest")


@pytest.fixture(scope="module")
def pass_of_sampler():
    """The precisions of the products of one pass, in the sampler."""
    return of_products(sampler_of("default"))


@pytest.mark.parametrize("name", NAMES)
def test_every_product_of_the_sampler_has_its_precision(name, pass_of_sampler):
    assert of_products(sampler_of(name)) == [NAMES[name]] * len(pass_of_sampler)


def test_the_environment_sets_the_default_alone(pass_of_sampler):
    with jax.default_matmul_precision("highest"):
        highest = [Lax.HIGHEST] * len(pass_of_sampler)
        assert of_products(sampler_of("default")) == highest
        assert set(of_products(sampler_of("high"))) == {Lax.HIGH}


def test_teacher_and_student_have_their_own_forward_and_backward(
    distill, pass_of_sampler
):
    """Two passes of the teacher; of the student as many as of the base model."""
    update = of_products(step_of("base", training="highest"))
    assert set(update) == {Lax.HIGHEST}
    found = of_products(distill)
    assert found.count(Lax.HIGH) == len(update)
    assert found.count(Lax.HIGHEST) == 2 * len(pass_of_sampler)
    assert len(found) == len(update) + 2 * len(pass_of_sampler)


def test_the_programs_of_all_platforms_have_these_two_alone(distill):
    text = distill.lower(lowering_platforms=("cpu", "cuda", "tpu")).as_text()
    lines = [line for line in text.splitlines() if PRODUCT_LINE.search(line)]
    found = [re.findall(r"\b(?:DEFAULT|HIGH|HIGHEST)\b", line) for line in lines]
    assert set(map(tuple, found)) == {("HIGH",) * 2, ("HIGHEST",) * 2}


@pytest.mark.parametrize(
    ("platform", "refused"),
    [
        ("cpu", ["tensorfloat32", "bfloat16_3x"]),
        ("gpu", ["bfloat16_3x"]),
        ("tpu", ["tensorfloat32"]),
    ],
)
def test_a_precision_that_a_platform_lacks_is_refused(platform, refused):
    for name in NAMES:
        for field in ("training", "target", "sampling"):
            config = config_with(**{field: name})
            if name not in refused:
                preflight.check_precision(config, platform)
                continue
            with pytest.raises(
                ConfigError, match=f"^config.precision.{field}='{name}'"
            ):
                preflight.check_precision(config, platform)


@pytest.mark.parametrize("parameterization", ["x", "eps", "v", "both"])
def test_in_bfloat16_outputs_whose_errors_the_loss_multiplies_are_refused(
    parameterization,
):
    config = config_with()
    config.parameterization, config.net.dtype = parameterization, "bfloat16"
    if parameterization in ("v", "both"):
        preflight.check_dtype(config)
        return
    rule = f"must be float32 for config.parameterization='{parameterization}'"
    with pytest.raises(ConfigError, match=f"^config.net.dtype='bfloat16': {rule}"):
        preflight.check_dtype(config)


def card_with(**precision):
    config = config_with(**precision)
    source = preflight.open_source(config)
    return cards.make_card(config, plan_of(config)[0], source)


def test_a_card_has_the_precisions_and_its_model_that_of_sampling():
    card = card_with(training="tensorfloat32", sampling="highest")
    assert card["precision"] == {
        **{"training": "tensorfloat32", "target": "default", "sampling": "highest"}
    }
    assert cards.model_of(card, "here").precision == "highest"
    assert cards.model_of(card, "here", "default").precision == "default"


def test_a_card_of_an_earlier_version_has_the_default():
    card = card_with(sampling="highest")
    del card["precision"]
    assert cards.model_of(card, "here").precision == "default"


def test_a_model_of_another_platform_is_sampled_in_the_highest_precision():
    card = card_with(sampling="tensorfloat32")
    assert cards.model_of(card, "here").precision == "highest"
    with pytest.raises(UsageError, match="is not one of default, high, highest"):
        cards.model_of(card, "here", "tensorfloat32")


def test_rows_of_one_precision_alone_repeat_each_other():
    row = {
        **{"phase": 1, "role": "student", "sampler": "ddim", "num_steps": 4},
        **{"trained_steps": 4, "num_samples": 32, "metric": "FD-pixels", "value": 1.0},
    }
    default, highest = (
        read_row(EvalRow, row | more, "here") for more in ({}, {"precision": "highest"})
    )
    assert not default.repeats(highest)
    assert highest.to_json()["precision"] == "highest"
