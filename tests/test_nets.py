"""The U-Net: published sizes and names, and what each piece must be equal to."""

from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from progdist.nets import blocks
from progdist.nets.blocks import (
    AttnBlock,
    Conv3x3,
    Dropout,
    GroupNorm,
    ResNetBlock,
    attention,
    convolve,
    convolve_upsampled,
    default_groups,
    depth_to_space,
    downsample,
    drop,
    group_moments,
    materialised,
    space_to_depth,
    upsample,
)
from progdist.nets.conditioning import Conditioning
from progdist.nets.unet import UNet, embed_logsnr
from tests.jaxprs import equations

PUBLISHED = {
    "cifar10": (
        32,
        UNet(256, 1024, (1, 1, 1), 3, (8, 16)),
        60_004_099,
    ),
    "imagenet64": (
        64,
        UNet(
            *(192, 768, (1, 2, 3, 4), 3, (8, 16, 32)),
            head_dim=64,
            num_classes=1000,
            out_ch=6,
        ),
        295_905_222,
    ),
    "lsun": (
        128,
        UNet(64, 768, (1, 2, 4, 6, 8), 3, (8, 16, 32), head_dim=64, out_ch=6),
        139_578_502,
    ),
}

NET = UNet(
    ch=8,
    emb_ch=16,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(4,),
    head_dim=8,
    num_classes=3,
)

# The same blocks at one size: what is executed here is executed on this.
FLAT = NET.copy(ch_mult=(1,), attn_resolutions=(), head_dim=4)

NORM = {"bias", "scale"}
DENSE = {"bias", "kernel"}
RESNET = {
    **{"norm1": NORM, "conv1": DENSE, "temb_proj": DENSE},
    **{"norm2": NORM, "conv2": DENSE},
}
WIDENED = {**RESNET, "nin_shortcut": DENSE}
ATTENTION = {"norm": NORM, "q": DENSE, "k": DENSE, "v": DENSE, "proj_out": DENSE}


def quick(function):
    """Jit with code that is quick to compile rather than to run."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options)


def inputs(batch):
    keys = jax.random.split(jax.random.key(1), 2)
    z = jax.random.normal(keys[0], (batch, 8, 8, 3))
    return z, jnp.linspace(-6.0, 6.0, batch), Conditioning(jnp.arange(batch) % 3)


def dropout(batch, rate=0.3, seed=7):
    return Dropout(jax.random.split(jax.random.key(seed), batch), rate)


def shapes_of(net, size):
    return jax.eval_shape(
        net.init,
        jax.random.key(0),
        jnp.zeros((1, size, size, 3)),
        jnp.zeros((1,)),
        None if net.num_classes == 0 else Conditioning(jnp.zeros((1,), jnp.int32)),
    )["params"]


@pytest.fixture(scope="module")
def initial():
    """Output and parameters of a fresh network."""
    return quick(FLAT.init_with_output)(jax.random.key(0), *inputs(4))


@pytest.fixture(scope="module")
def params():
    """Parameters of `FLAT` in which no branch is switched off by zeros."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: 0.3 * generator.standard_normal(leaf.shape).astype("float32"),
        shapes_of(FLAT, 8),
    )


@pytest.fixture(scope="module")
def apply():
    return quick(lambda params, *args: FLAT.apply({"params": params}, *args))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_number_of_parameters(name):
    size, net, count = PUBLISHED[name]
    leaves = jax.tree.leaves(shapes_of(net, size))
    assert sum(leaf.size for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_names_are_those_of_the_released_checkpoints():
    params = shapes_of(NET, 8)
    names = jax.tree.map(lambda _: None, params)
    assert {
        module: set(leaves) if leaves.keys() <= (NORM | DENSE)
        else {name: set(leaf) for name, leaf in leaves.items()}
        for module, leaves in names.items()
    } == {
        **{"conv_in": DENSE, "dense0": DENSE, "dense1": DENSE, "class_emb": DENSE},
        **{"down_0.block_0": RESNET, "down_0.downsample": RESNET},
        **{"down_1.block_0": WIDENED, "down_1.attn_0": ATTENTION},
        **{"mid.block_1": RESNET, "mid.attn_1": ATTENTION, "mid.block_2": RESNET},
        **{"up_1.block_0": WIDENED, "up_1.attn_0": ATTENTION},
        **{"up_1.block_1": WIDENED, "up_1.attn_1": ATTENTION},
        **{"up_1.upsample": RESNET},
        **{"up_0.block_0": WIDENED, "up_0.block_1": WIDENED},
        **{"norm_out": NORM, "conv_out": DENSE},
    }  # fmt: skip
    assert params["down_1.attn_0"]["q"]["kernel"].shape == (16, 2, 8)
    assert params["down_1.attn_0"]["proj_out"]["kernel"].shape == (2, 8, 16)
    assert params["down_1.block_0"]["conv1"]["kernel"].shape == (3, 3, 8, 16)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_output_has_the_size_of_the_input_and_is_float32(patch_size, dtype):
    net = NET.copy(patch_size=patch_size, out_ch=6, dtype=dtype)
    shape = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs(2))[0]
    assert (shape.shape, shape.dtype) == ((2, 8, 8, 6), jnp.float32)


def test_a_fresh_network_returns_zero(initial):
    np.testing.assert_array_equal(initial[0], 0.0)


def test_exactly_the_kernels_that_close_a_branch_start_at_zero(initial):
    kernels = {
        path: leaf
        for path, leaf in flatten_dict(initial[1]["params"]).items()
        if path[-1] == "kernel"
    }
    zero = {path for path, leaf in kernels.items() if not np.asarray(leaf).any()}
    closing = {"conv2", "proj_out", "conv_out"}
    assert zero == {path for path in kernels if path[-2] in closing}


def test_the_angle_of_the_cosine_schedule_is_embedded():
    t = np.array([0.1, 0.5, 0.9])
    logsnr = -2 * np.log(np.tan(0.5 * np.pi * t))
    rates = np.array([1.0, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4])
    phases = 1000 * t[:, None] * rates
    expected = np.concatenate([np.sin(phases), np.cos(phases)], axis=1)
    with jax.enable_x64(True):
        embedded = embed_logsnr(jnp.asarray(logsnr), 8)
    np.testing.assert_allclose(embedded, expected, atol=1e-9)


def test_the_embedding_is_constant_beyond_a_logsnr_of_20():
    ends = embed_logsnr(jnp.array([-20.0, -1e9, 20.0, jnp.inf]), 8)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], ends[3])


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize(("channels", "groups"), [(12, 0), (64, 0), (96, 32)])
def test_group_norm_equals_that_of_flax(channels, groups, dtype, rtol):
    generator = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(1 + generator.standard_normal((2, 4, 6, channels)), dtype)
        params = {
            name: jnp.asarray(generator.standard_normal(channels), dtype)
            for name in NORM
        }
        norm = GroupNorm(dtype, num_groups=groups)
        ours = quick(norm.apply)({"params": params}, x)
        flax = quick(nn.GroupNorm(groups or default_groups(channels)).apply)(
            {"params": params}, x
        )
        assert ours.dtype == flax.dtype == dtype
        np.testing.assert_allclose(ours, flax, rtol=rtol, atol=rtol)


def test_modulation_scales_and_shifts_the_norm():
    generator = np.random.default_rng(0)
    x, scale, shift = (
        generator.standard_normal(shape, "float32")
        for shape in ((2, 4, 4, 8), (2, 8), (2, 8))
    )
    params = {"scale": np.full(8, 2.0), "bias": np.ones(8)}
    norm = quick(lambda *args: GroupNorm().apply({"params": params}, *args))
    expected = norm(x) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(norm(x, (scale, shift)), expected, atol=1e-5)


def test_published_widths_have_32_groups():
    assert {default_groups(64 * k) for k in range(1, 33)} == {32}


def test_groups_divide_the_channels():
    assert not any(channels % default_groups(channels) for channels in range(1, 200))


def test_every_norm_has_the_configured_groups(monkeypatch):
    """Those of concatenations too."""
    groups, moments = [], blocks.group_moments
    monkeypatch.setattr(
        blocks, "group_moments", lambda *args: groups.append(args[1]) or moments(*args)
    )
    names = flatten_dict(shapes_of(NET.copy(num_groups=2), 8))
    assert groups == [2] * sum(path[-1] == "scale" for path in names)


def test_conv_equals_that_of_flax():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 6, 4, 5))
    params = {
        "kernel": jax.random.normal(keys[1], (3, 3, 5, 7)),
        "bias": jnp.arange(7.0),
    }

    def gradients(conv):
        def run(params, x):
            return conv.apply({"params": params}, x)

        def both(params, x):
            y, pullback = jax.vjp(run, params, x)
            return y, pullback(jnp.sin(y))

        return quick(both)(params, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradients(Conv3x3(7)),
        gradients(nn.Conv(7, (3, 3))),
    )


def test_upsampling_is_the_nearest_neighbour():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    expected = jax.image.resize(x, (2, 8, 12, 3), "nearest")
    np.testing.assert_array_equal(upsample(x), expected)


def test_convolving_an_upsampled_image_takes_4_of_9_multiplications_on_cpu():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))

    def plain(x, kernel):
        return convolve(upsample(x), kernel)

    @quick
    def both(x, kernel):
        value, back = jax.vjp(convolve_upsampled, x, kernel)
        expected, expected_back = jax.vjp(plain, x, kernel)
        return (value, *back(expected)), (expected, *expected_back(expected))

    for ours, theirs in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-3)
    wide = jnp.zeros((1, 8, 8, 64)), jnp.zeros((3, 3, 64, 64))
    ours, theirs = (
        jax.jit(fn).lower(*wide).cost_analysis()["flops"]
        for fn in (convolve_upsampled, plain)
    )
    assert ours < 0.5 * theirs


def test_downsampling_is_the_mean_and_a_quarter_of_the_adjoint_of_upsampling():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    mean = nn.avg_pool(x, (2, 2), (2, 2))
    adjoint = jax.vjp(upsample, mean)[1](x)[0]
    np.testing.assert_allclose(downsample(x), mean, atol=1e-6)
    np.testing.assert_allclose(downsample(x), adjoint / 4, atol=1e-6)


def test_space_to_depth_keeps_each_square_and_is_inverted():
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    folded = space_to_depth(x, 2)
    np.testing.assert_array_equal(folded[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(depth_to_space(folded, 2), x)
    np.testing.assert_array_equal(space_to_depth(x, 1), x)


def test_attention_equals_that_of_flax():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 9, 2, 4), "float32")
    expected = quick(nn.dot_product_attention)(q, k, v)
    np.testing.assert_allclose(quick(attention)(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize("block", [ResNetBlock(8), AttnBlock(2)])
def test_a_fresh_block_is_the_identity(block):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    args = (x, jnp.ones((2, 16))) if isinstance(block, ResNetBlock) else (x,)
    y, _ = quick(block.init_with_output)(jax.random.key(1), *args)
    np.testing.assert_array_equal(y, x)


def test_dropout_of_an_example_depends_on_its_own_key_alone(apply, params):
    args = (*inputs(4), dropout(4))
    whole = apply(params, *args)
    halves = [
        apply(params, *jax.tree.map(lambda x, i=i: x[i : i + 2], args)) for i in (0, 2)
    ]
    np.testing.assert_allclose(whole, np.concatenate(halves), rtol=1e-4, atol=1e-4)
    others = args[3].keys.at[1:].set(dropout(3, seed=8).keys)
    changed = apply(params, *args[:3], args[3].replace(keys=others))
    np.testing.assert_array_equal(whole[0], changed[0])
    assert all(np.any(whole[i] != changed[i]) for i in (1, 2, 3))


def test_dropout_zeroes_at_its_rate_keeps_the_mean_and_differs_between_sites():
    x = jnp.ones((2, 32, 32, 16))
    quarter = dropout(2, rate=0.25)
    kept = drop(x, quarter, "a")
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    # Five standard deviations of a mean of 32768 draws of variance rate / (1 - rate).
    np.testing.assert_allclose(kept.mean(), 1, atol=5 * (1 / 3 / 32768) ** 0.5)
    assert np.any(kept != drop(x, quarter, "b"))


def test_dropout_is_applied_if_and_only_if_it_is_given(apply, params):
    still, dropped = apply(params, *inputs(4)), apply(params, *inputs(4), dropout(4))
    assert np.abs(still - dropped).max() > 0.01
    nearly = apply(params, *inputs(4), dropout(4, rate=1e-9))
    np.testing.assert_allclose(still, nearly, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def gradient(params):
    """Of a network: value and gradient of a nonlinear function of its output."""

    def of(net):
        def loss(params):
            return jnp.mean(jnp.sin(net.apply({"params": params}, *args)))

        return quick(jax.value_and_grad(loss))(params)

    args = (*inputs(4), dropout(4))
    return of


@pytest.fixture(scope="module")
def exact_gradient(gradient):
    return gradient(FLAT)


@pytest.mark.parametrize("remat", ["blocks", "dots"])
def test_remat_is_the_same_function_and_every_parameter_gets_a_gradient(
    remat, exact_gradient, gradient
):
    value, grads = exact_gradient
    value_remat, grads_remat = gradient(FLAT.copy(remat=remat))
    np.testing.assert_allclose(value, value_remat, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        grads,
        grads_remat,
    )
    assert [
        path for path, g in flatten_dict(grads).items() if not np.asarray(g).any()
    ] == []


def test_dots_recomputes_no_convolution_and_blocks_all():
    def count(remat):
        net = FLAT.copy(remat=remat)
        gradient = jax.grad(lambda p: net.apply({"params": p}, *inputs(4)).sum())
        jaxpr = jax.make_jaxpr(gradient)(shapes_of(FLAT, 8))
        names = Counter(e.primitive.name for e in equations(jaxpr))
        return names["conv_general_dilated"], names["logistic"]

    none, dots, blocks = map(count, ("none", "dots", "blocks"))
    assert none[0] == dots[0] < blocks[0]
    assert none[1] < dots[1] == blocks[1]


def test_in_bfloat16_the_output_is_not_rounded(apply, params):
    half = FLAT.copy(dtype=jnp.bfloat16).apply
    output = quick(lambda p, *args: half({"params": p}, *args))(params, *inputs(4))
    assert np.mean(output != output.astype(jnp.bfloat16)) > 0.9


def test_bfloat16_is_the_same_function(apply, params):
    half = FLAT.copy(dtype=jnp.bfloat16).apply
    rounded = quick(lambda p, *args: half({"params": p}, *args))(params, *inputs(4))
    exact = apply(params, *inputs(4))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # A dozen layers, each rounding to 8 bits.
    assert error < 12 * float(jnp.finfo(jnp.bfloat16).eps)


def test_the_noise_level_reaches_the_output(apply, params):
    z, logsnr, label = inputs(4)
    assert np.any(apply(params, z, logsnr, label) != apply(params, z, -logsnr, label))


def test_labels_act_through_the_class_embedding_alone(apply, params):
    z, logsnr, label = inputs(4)
    other = Conditioning((label.label + 1) % 3)
    assert np.any(apply(params, z, logsnr, label) != apply(params, z, logsnr, other))
    blind = {**params, "class_emb": jax.tree.map(jnp.zeros_like, params["class_emb"])}
    np.testing.assert_array_equal(
        apply(blind, z, logsnr, label), apply(blind, z, logsnr, other)
    )


@pytest.mark.parametrize(
    ("net", "size", "message"),
    [
        (NET, 7, "7x7: height and width must be divisible by 2"),
        (NET.copy(patch_size=4), 12, "must be divisible by 8"),
        (NET.copy(ch=7), 8, "ch=7: must be even"),
        (NET.copy(head_dim=5), 8, "must divide the 16 channels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(net, size, message):
    with pytest.raises(ValueError, match=message) as error:
        shapes_of(net, size)
    assert "\n" not in str(error.value)


def test_a_conditional_network_needs_labels():
    z, logsnr, _ = inputs(2)
    with pytest.raises(ValueError, match="num_classes=3 needs one"):
        jax.eval_shape(NET.init, jax.random.key(0), z, logsnr)


def test_on_cpu_the_gradient_alone_has_barriers():
    """A program without gradient is then the same for every platform."""

    def total(x):
        return materialised(x).sum()

    x = jnp.ones((1, 2, 2, 1))
    assert "optimization_barrier" not in str(jax.make_jaxpr(total)(x))
    assert str(jax.make_jaxpr(jax.grad(total))(x)).count("optimization_barrier") == 2
    np.testing.assert_array_equal(jax.grad(total)(x), x)


def test_softmax_and_moments_stay_float32_in_bfloat16():
    q = jnp.ones((1, 4, 1, 2), jnp.bfloat16)
    exponentials = [
        str(equation.outvars[0].aval.dtype)
        for equation in jax.make_jaxpr(attention)(q, q, q).eqns
        if equation.primitive.name == "exp"
    ]
    assert exponentials
    assert set(exponentials) == {"float32"}
    assert attention(q, q, q).dtype == jnp.bfloat16
    x = jnp.linspace(0.0, 3.0, 4096).astype(jnp.bfloat16).reshape(1, 16, 16, 16)
    mean, inv_std = group_moments(x, 1, 0.0)
    exact = np.asarray(x, np.float64)
    assert mean.dtype == inv_std.dtype == jnp.float32
    np.testing.assert_allclose(mean, np.full((1, 16), exact.mean()), rtol=1e-6)
    np.testing.assert_allclose(inv_std, np.full((1, 16), 1 / exact.std()), rtol=1e-5)


def test_the_channels_are_shared_by_the_configured_number_of_heads():
    params = shapes_of(NET.copy(head_dim=0, num_heads=4), 8)
    assert params["down_1.attn_0"]["q"]["kernel"].shape == (16, 4, 4)


def test_dropout_reaches_every_residual_block(monkeypatch):
    """Each under a name of its own."""
    sites = []
    monkeypatch.setattr(
        blocks, "drop", lambda x, dropout, site: sites.append(site) or x
    )
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.eval_shape(
        NET.init, jax.random.key(0), *inputs(2), Dropout(keys, 0.5)
    )["params"]
    residual = [name for name, leaves in params.items() if "conv2" in leaves]
    assert sorted(sites) == sorted(residual)
