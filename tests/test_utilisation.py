"""FLOPs against counts by hand, and the peaks that they are compared with."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from progdist import parallel, preflight
from progdist.config import Config, Data, Distillation, Training, plan_of
from progdist.nets.settings import UNetConfig
from progdist.trainer import recipes, utilisation
from progdist.trainer.utilisation import peak_flops, product_flops
from tests import tiny

NET = UNetConfig(
    ch=8,
    emb_ch=16,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(4,),
    num_classes=3,
)


def by_hand():
    """Multiply-adds of every layer of NET on 8x8 pixels and three classes.

    On CPU, where upsampled features are convolved by kernels of 2x2.
    """

    def conv(pixels, i, o, taps=9):
        return taps * pixels * i * o

    def block(pixels, i, o, taps=9):
        shortcut = pixels * i * o if i != o else 0
        return conv(pixels, i, o, taps) + 16 * 2 * o + conv(pixels, o, o) + shortcut

    def attend(pixels, ch):
        return 4 * pixels * ch * ch + 2 * pixels * pixels * ch

    embed = 8 * 16 + 16 * 16 + 3 * 16
    down = conv(64, 1, 8) + block(64, 8, 8) + block(16, 8, 8)
    down += block(16, 8, 16) + attend(16, 16)
    middle = 2 * block(16, 16, 16) + attend(16, 16)
    up = block(16, 32, 16) + block(16, 24, 16) + 2 * attend(16, 16)
    up += block(64, 16, 16, taps=4) + block(64, 24, 8) + block(64, 16, 8)
    return embed + down + middle + up + conv(64, 8, 1)


@pytest.mark.parametrize("remat", ["none", "blocks", "dots"])
def test_a_forward_pass_has_the_products_of_its_layers(remat):
    net = dataclasses.replace(NET, remat=remat)
    config = Config(data=Data(image_shape=(8, 8, 1)), net=net)
    model = preflight.make_model(config)
    assert utilisation.forward_flops(model) == 2 * by_hand()


@pytest.mark.parametrize(("ratio", "given"), [(2, False), (4, False), (2, True)])
def test_an_update_has_the_passes_of_the_plan(ratio, given):
    """But for the first layer, whose input needs no gradient."""
    model, mesh = tiny.model(), parallel.make_mesh(jax.devices()[:1])
    distill = Distillation(start_steps=ratio, ratio=ratio)
    config = Config(base=Training(), distill=distill, reparameterize=given)
    models, teacher = preflight.Models(model, model, model), model if given else None
    first, second = 2 * 16 * 2 * 8, 2 * 16 * 8
    assert utilisation.forward_flops(model) == first + second
    for phase in plan_of(config):
        recipe = recipes.make_recipe(phase.kind, config, models, teacher, mesh)
        snapshot = recipes.make_template(recipe, phase.number, mesh)
        round_ = recipes.make_round(0, phase, snapshot.teacher_params, mesh)
        batch = tiny.batch(phase.batch_size)
        jaxpr = recipe.train_step.trace(snapshot.state, round_, batch).jaxpr
        there = product_flops(jaxpr) + phase.batch_size * first
        assert there == utilisation.update_flops(model, phase)


def test_a_scan_counts_each_turn_and_branches_the_dearest():
    a = jnp.ones((4, 4))

    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ a, None), x, length=5)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ a @ a, lambda x: x @ a, x)

    def looped(x):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ a, x)

    product = 2 * 4**3
    assert product_flops(jax.make_jaxpr(jax.jit(scanned))(a)) == 5 * product
    assert product_flops(jax.make_jaxpr(branched)(a)) == 2 * product
    with pytest.raises(ValueError, match="while loop"):
        product_flops(jax.make_jaxpr(looped)(a))


@pytest.mark.parametrize(
    ("kind", "dtype", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", "default", 989.5),
        ("NVIDIA H100 80GB HBM3", "float32", "default", 494.5),
        ("NVIDIA H100 80GB HBM3", "float32", "highest", 67),
        ("NVIDIA H100 PCIe", "bfloat16", "default", 756.5),
        ("NVIDIA A100-SXM4-80GB", "float32", "tensorfloat32", 156),
        ("NVIDIA A10", "bfloat16", "default", 125),
        ("Tesla T4", "float32", "default", 8.1),
        ("Tesla T4", "bfloat16", "default", None),
        ("TPU v4", "float32", "default", 275),
        ("TPU v4", "float32", "bfloat16_3x", 275 / 3),
        ("TPU v4", "bfloat16", "highest", 275),
        ("TPU v5 lite", "bfloat16", "default", 197),
        ("TPU v5", "bfloat16", "default", 459),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", "default", None),
        ("NVIDIA A10G", "bfloat16", "default", None),
        ("cpu", "float32", "default", None),
    ],
)
def test_the_peak_of_a_device_depends_on_the_type_of_the_products(
    kind, dtype, precision, tera
):
    peak = peak_flops(kind, dtype, precision)
    assert peak == (tera if tera is None else pytest.approx(1e12 * tera))


def test_a_meter_reads_tflops_and_their_share_of_the_peak():
    meter = utilisation.Meter(update_flops=2 * 10**12, peak=10.0**13)
    assert meter.read(3.0) == {"tflops_per_second": 6.0, "utilisation": 0.6}
    assert meter._replace(peak=None).read(3.0)["utilisation"] is None
