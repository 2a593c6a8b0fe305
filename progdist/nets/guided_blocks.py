"""Blocks of guided-diffusion's U-Net, with the names that its parameters have there."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from progdist.nets.blocks import (
    Conv3x3,
    Dropout,
    GroupNorm,
    Resample,
    attention,
    downsample,
    drop,
    upsample,
)


def norm(dtype: Any, name: str) -> GroupNorm:
    """Returns a normalisation of 32 groups, as in PyTorch."""
    return GroupNorm(dtype, epsilon=1e-5, num_groups=32, name=name)


class GuidedBlock(nn.Module):
    """Residual block, modulated by the embedding.

    x + conv(dropout(swish(norm(conv(swish(norm(x))))))), where the embedding scales and
    shifts the second norm, or is added before it. Branch and shortcut are resampled
    alike.

    Attributes:
      features: channels of the result.
      resample: change of height and width, if any.
      scale_shift_norm: whether the embedding scales and shifts.
      dtype: dtype of the computation.
    """

    features: int
    resample: Resample | None = None
    scale_shift_norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns features at the resampled size."""
        conv = functools.partial(Conv3x3, self.features, dtype=self.dtype)
        h = nn.swish(norm(self.dtype, "in_layers.0")(x))
        if self.resample == "down":
            h, x = downsample(h), downsample(x)
        elif self.resample == "up":
            x = upsample(x)
        h = conv(upsampled=self.resample == "up", name="in_layers.2")(h)
        h, modulation = self._modulation(h, emb)
        h = nn.swish(norm(self.dtype, "out_layers.0")(h, modulation))
        if dropout is not None:
            h = drop(h, dropout, "/".join(self.path))
        h = conv(zero=True, name="out_layers.3")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="skip_connection")(x)
        return x + h

    def _modulation(
        self, h: Array, emb: Array
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Returns the features, and scale and shift of their norm, if any."""
        num = 2 if self.scale_shift_norm else 1
        dense = nn.Dense(num * self.features, dtype=self.dtype, name="emb_layers.1")
        first, *second = jnp.split(dense(nn.swish(emb)), num, axis=-1)
        if second:
            return h, (first, second[0])
        return h + first[:, None, None], None


class GuidedAttention(nn.Module):
    """Self-attention over all pixels: x + attention(norm(x)).

    Attributes:
      num_heads: number of heads, a divisor of the channels.
      dtype: dtype of the computation.
    """

    num_heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x + attention(norm(x))."""
        b, height, width, channels = x.shape
        h = norm(self.dtype, "norm")(x)
        h = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        h = h.reshape(b, height * width, 3, self.num_heads, -1)
        h = attention(h[:, :, 0], h[:, :, 1], h[:, :, 2]).reshape(x.shape)
        init = nn.initializers.zeros
        project = nn.Dense(
            channels, kernel_init=init, dtype=self.dtype, name="proj_out"
        )
        return x + project(h)


class Resize(nn.Module):
    """Convolution that halves or doubles height and width.

    Attributes:
      features: channels of the input and of the result.
      resample: "down" takes every other place of a convolution, "up" repeats pixels and
        convolves.
      dtype: dtype of the computation.
    """

    features: int
    resample: Resample
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b h2 w2 c"]:
        """Returns features at the other size; they do not depend on the embedding."""
        if self.resample == "up":
            conv = Conv3x3(self.features, upsampled=True, dtype=self.dtype, name="conv")
            return conv(x)
        return nn.Conv(*(self.features, (3, 3), 2, 1), dtype=self.dtype, name="op")(x)
