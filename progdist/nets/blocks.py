"""Building blocks of the U-Net: normalisation, resampling, residuals, attention.

Images and feature maps are [b, h, w, c]. Parameters are float32; `dtype` is the dtype
of the computation, except that statistics and softmax stay float32. The last kernel of
a residual branch starts at zero, so that a fresh block is the identity (up to its
shortcut). Modules and parameters are named as in the checkpoints released with
Salimans & Ho (2022).
"""

import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Resample = Literal["down", "up"]


@flax.struct.dataclass
class Dropout:
    """Dropout of one forward pass.

    Attributes:
      keys: one key per example, the same for every site in the network.
      rate: probability of a zero, in (0, 1).
    """

    keys: Key[Array, " b"]
    rate: float = flax.struct.field(pytree_node=False)


def default_groups(channels: int) -> int:
    """Returns the groups of a GroupNorm: 32 if 64 divides the channels, else fewer."""
    return max(1, math.gcd(64, channels) // 2)


def downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Halves height and width, both even, by the mean of each 2x2 square."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Doubles height and width by nearest neighbour."""
    b, h, w, c = x.shape
    # The gradient of a broadcast is a sum; of a gather (repeat), a slow scatter.
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "i j c d"],
    padding: Sequence[tuple[int, int]] | Literal["SAME"] = "SAME",
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolution in the dtype of x, by default of the same size."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """Returns `convolve(upsample(x), kernel)`; on CPU, in 4/9 of the multiplications.

    A 3x3 window of the upsampled image covers 2x2 pixels of x. There, the taps on the
    same pixel are summed first; each of the four places in a 2x2 square has its kernel.
    """
    if jax.default_backend() != "cpu":
        return convolve(upsample(x), kernel)
    b, h, w, _ = x.shape
    rows = [
        [
            convolve(x, taps, ((1 - i, i), (1 - j, j)))
            for j, taps in enumerate(_summed_taps(half, axis=1))
        ]
        for i, half in enumerate(_summed_taps(kernel, axis=0))
    ]
    squares = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
    return squares.reshape(b, 2 * h, 2 * w, -1)


def _summed_taps(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Returns the kernels of the even and the odd places of the upsampled image."""
    first, middle, last = jnp.split(kernel, 3, axis)
    even, odd = (first, middle + last), (first + middle, last)
    return jnp.concatenate(even, axis), jnp.concatenate(odd, axis)


def space_to_depth(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i j d"]:
    """Folds squares of size x size pixels into channels: d = size² c, c innermost."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // size, w // size, -1)


def depth_to_space(x: Float[Array, "b i j d"], size: int) -> Float[Array, "b h w c"]:
    """Unfolds channels into squares of pixels; the inverse of `space_to_depth`."""
    b, i, j, _ = x.shape
    x = x.reshape(b, i, j, size, size, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, i * size, j * size, -1)


def drop(
    x: Float[Array, "b h w c"], dropout: Dropout, site: str
) -> Float[Array, "b h w c"]:
    """Drops entries of each example, with a mask from that example's own key.

    The result for an example does not depend on its batch or device.

    Args:
      x: the features.
      dropout: keys and rate.
      site: name of the place in the network; different names have different masks.
    """
    number, rate = zlib.crc32(site.encode()), dropout.rate

    def keep(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, shape)

    shape = x.shape[1:]
    return jnp.where(jax.vmap(keep)(dropout.keys), x / (1 - rate), jnp.zeros_like(x))


class GroupNorm(nn.Module):
    """Group normalisation, optionally modulated: norm(x) (1 + scale) + shift.

    Equal to `flax.linen.GroupNorm`. Moments come from sums per channel, and the rest is
    one x * a + b, which on CPU is several times faster than reshaping the image into
    groups. Without `num_groups` it has `default_groups` of its channels.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    num_groups: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        modulation: tuple[Float[Array, "b c"], Float[Array, "b c"]] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Normalises over height, width and the channels of a group."""
        channels = x.shape[-1]
        x = materialised(x)
        gain = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        groups = self.num_groups or default_groups(channels)
        mean, inv_std = group_moments(x, groups, self.epsilon)
        a = inv_std * gain[None]
        b = bias[None] - mean * a
        if modulation is not None:
            scale, shift = modulation
            a, b = a * (1 + scale), b * (1 + scale) + shift
        return (x * a[:, None, None] + b[:, None, None]).astype(self.dtype)


@jax.custom_jvp
def materialised(x: Float[Array, "*d"]) -> Float[Array, "*d"]:
    """Returns x; when differentiated on CPU, x and its gradient are materialised.

    XLA would otherwise recompute whole chains of residual sums, and of gradients of
    norms, in each of their consumers; a gradient then costs a quarter more on CPU. A
    pass without gradient would gain nothing, and is the same program on all platforms.
    """
    return x


@materialised.defjvp
def _materialised_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    if jax.default_backend() != "cpu":
        return x, x_dot
    return jax.lax.optimization_barrier(x), jax.lax.optimization_barrier(x_dot)


def group_moments(
    x: Float[Array, "b h w c"], groups: int, epsilon: float
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Returns mean and 1 / sqrt(variance + epsilon) per channel, at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    batch, height, width, channels = x.shape
    size = height * width * channels // groups

    def mean_of(values: Array) -> Array:
        sums = values.sum((1, 2)).reshape(batch, groups, -1).sum(2)
        return jnp.repeat(sums / size, channels // groups, axis=1)

    mean = mean_of(x)
    variance = jnp.maximum(mean_of(x * x) - mean * mean, 0.0)
    return mean, jax.lax.rsqrt(variance + epsilon)


class Conv3x3(nn.Module):
    """A 3x3 convolution with bias and zero padding.

    Attributes:
      features: channels of the result.
      zero: whether the kernel starts at zero.
      upsampled: whether to convolve the upsampled features.
      dtype: dtype of the computation.
    """

    features: int
    zero: bool = False
    upsampled: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Convolves."""
        init = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[3:], jnp.float32)
        apply = convolve_upsampled if self.upsampled else convolve
        # In an exported sampler, parameters are NumPy arrays.
        x = apply(x.astype(self.dtype), jnp.asarray(kernel))
        return x + bias.astype(self.dtype)[None, None, None]


class ResNetBlock(nn.Module):
    """Two convolutions with a shortcut, modulated by the embedding.

    The published block: x + conv(dropout(swish(modulated norm(conv(swish(norm(x))))))).
    Branch and shortcut are resampled alike; there is no factor 1 / sqrt(2).
    """

    features: int
    resample: Resample | None = None
    dtype: Any = jnp.float32
    num_groups: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns features at the resampled size."""
        norm = functools.partial(GroupNorm, self.dtype, num_groups=self.num_groups)
        h = nn.swish(norm(name="norm1")(x))
        if self.resample == "down":
            h, x = downsample(h), downsample(x)
        elif self.resample == "up":
            x = upsample(x)
        conv1 = functools.partial(Conv3x3, upsampled=self.resample == "up")
        h = conv1(self.features, dtype=self.dtype, name="conv1")(h)
        project = nn.Dense(2 * self.features, dtype=self.dtype, name="temb_proj")
        scale, shift = jnp.split(project(nn.swish(emb)), 2, axis=-1)
        h = nn.swish(norm(name="norm2")(h, (scale, shift)))
        if dropout is not None:
            h = drop(h, dropout, "/".join(self.path))
        h = Conv3x3(self.features, zero=True, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class AttnBlock(nn.Module):
    """Self-attention over all pixels: x + attention(norm(x)).

    Attributes:
      num_heads: number of heads, if `head_dim` is 0.
      head_dim: channels per head; determines the number of heads.
    """

    num_heads: int = 1
    head_dim: int = 0
    dtype: Any = jnp.float32
    num_groups: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x + attention(norm(x)).

        Raises:
          ValueError: if the number of heads does not divide the channels.
        """
        b, height, width, channels = x.shape
        heads = self._heads(channels)

        def project(name: str) -> nn.DenseGeneral:
            return nn.DenseGeneral(heads, dtype=self.dtype, name=name)

        norm = GroupNorm(self.dtype, num_groups=self.num_groups, name="norm")
        h = norm(x).reshape(b, height * width, channels)
        h = attention(project("q")(h), project("k")(h), project("v")(h))
        h = nn.DenseGeneral(
            channels,
            axis=(-2, -1),
            kernel_init=nn.initializers.zeros,
            dtype=self.dtype,
            name="proj_out",
        )(h)
        return x + h.reshape(x.shape)

    def _heads(self, channels: int) -> tuple[int, int]:
        """Returns the number of heads and the channels per head."""
        heads = channels // self.head_dim if self.head_dim else self.num_heads
        size = self.head_dim or channels // max(1, heads)
        if heads * size != channels:
            raise ValueError(
                f"num_heads={self.num_heads}, head_dim={self.head_dim}: "
                f"heads must divide the {channels} channels of an attention block"
            )
        return heads, size


def attention(
    q: Float[Array, "b n k d"], k: Float[Array, "b n k d"], v: Float[Array, "b n k d"]
) -> Float[Array, "b n k d"]:
    """Returns softmax(q k / sqrt(d)) v for each of k heads, with softmax in float32.

    On a CPU `jax.nn.dot_product_attention` takes 1.00 to 1.09 times as long.
    """
    logits = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
    weights = jax.nn.softmax(logits.astype(jnp.promote_types(q.dtype, jnp.float32)))
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)
