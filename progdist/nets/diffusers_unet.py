"""The U-Net of diffusers (`UNet2DModel`), in the layout of its checkpoints.

Modules have the names of diffusers', and a parameter the path that
`checkpoint.torch_names` gives it. The log-SNR becomes a timestep, which is a whole
number at the network's own noise levels.
"""

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
from progdist.nets.conditioning import Conditioning
from progdist.nets.diffusers_settings import DiffusersUNetConfig, Resampler
from progdist.nets.remat import recomputing
from progdist.nets.timesteps import (
    check_inputs,
    embed_timestep,
    logsnr_of,
    timestep_of,
)


class DiffusersUNet(nn.Module):
    """The network of diffusers' `UNet2DModel`.

    Attributes:
      config: its settings.
      out_ch: channels of the output.
    """

    config: DiffusersUNetConfig
    out_ch: int = 3

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h w c"],
        logsnr: Float[Array, " b"],
        conditioning: Conditioning | None = None,
        dropout: Dropout | None = None,
    ) -> Float[Array, "b h w o"]:
        """Evaluates the network.

        Args:
          z: noisy images; height and width divisible by 2^(levels - 1).
          logsnr: log-SNR of `z`.
          conditioning: its label is required if `num_classes` > 0, otherwise ignored.
          dropout: dropout of the pass; None for none.

        Raises:
          ValueError: if size or conditioning do not fit the network.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        label = conditioning.label if conditioning else None
        check_inputs(z, label, len(config.block_out_channels), config.num_classes)
        emb = self._embed(logsnr, label)
        h = 2 * z - 1 if config.center_input_sample else z
        channels = config.block_out_channels
        h = Conv3x3(channels[0], dtype=dtype, name="conv_in")(h)
        skips = [h]
        for level in range(len(channels)):
            name = f"down_blocks.{level}"
            skips += DownBlock(config, level, name=name)(skips[-1], emb, dropout)
        h = MiddleBlock(config, name="mid_block")(skips[-1], emb, dropout)
        for place in range(len(channels)):
            h = UpBlock(config, place, name=f"up_blocks.{place}")(
                h, skips, emb, dropout
            )
        h = nn.silu(_norm(config, "conv_norm_out", z.dtype)(h))
        return Conv3x3(self.out_ch, zero=True, dtype=z.dtype, name="conv_out")(h)

    def _embed(self, logsnr: Array, label: Array | None) -> Array:
        """Returns the embedding of the timestep, plus that of the class."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        channels = config.block_out_channels[0]
        width = config.time_embedding_dim or 4 * channels

        def waves(timestep: Array) -> Array:
            order = {"flip": config.flip_sin_to_cos, "shift": config.freq_shift}
            return embed_timestep(timestep, channels, **order, rounded=True)

        timestep = timestep_of(logsnr, logsnr_of(config.timesteps))
        emb = TimeEmbedding(width, dtype, name="time_embedding")(waves(timestep))
        if config.num_classes == 0 or label is None:
            return emb
        if config.class_embed_type == "timestep":
            of_class = TimeEmbedding(width, dtype, name="class_embedding")
            return emb + of_class(waves(label.astype(logsnr.dtype)))
        table = nn.Embed(config.num_classes, width, dtype=dtype, name="class_embedding")
        return emb + table(label)


class TimeEmbedding(nn.Module):
    """Two dense layers, with silu between them."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b e"]:
        """Returns the embedding."""
        x = nn.Dense(self.width, dtype=self.dtype, name="linear_1")(x)
        return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(nn.silu(x))


class DownBlock(nn.Module):
    """One level on the way down: residual blocks, attention, and downsampling.

    Attributes:
      config: settings of the network.
      level: number of the level; 0 is the largest.
    """

    config: DiffusersUNetConfig
    level: int

    @nn.compact
    def __call__(
        self, h: Float[Array, "b h w c"], emb: Float[Array, "b e"], dropout: Any
    ) -> list[Float[Array, "b _h _w d"]]:
        """Returns the feature maps after each block; the last is the next level's."""
        config, skips = self.config, []
        kind = config.down_block_types[self.level]
        features = config.block_out_channels[self.level]
        for i in range(config.layers_per_block):
            h = _resnet(config, features, f"resnets.{i}")(h, emb, dropout)
            if kind == "AttnDownBlock2D":
                h = _attention(config, f"attentions.{i}")(h)
            skips.append(h)
        if self.level + 1 < len(config.block_out_channels):
            if _is_by_conv(kind, config.downsample_type):
                h = Downsample(config, features, name="downsamplers.0")(h)
            else:
                block = _resnet(config, features, "downsamplers.0", "down")
                h = block(h, emb, dropout)
            skips.append(h)
        return skips


class MiddleBlock(nn.Module):
    """Two residual blocks at the smallest size, with attention between them."""

    config: DiffusersUNetConfig

    @nn.compact
    def __call__(
        self, h: Float[Array, "b h w c"], emb: Float[Array, "b e"], dropout: Any
    ) -> Float[Array, "b h w c"]:
        """Returns features of the same size."""
        config, factor = self.config, self.config.mid_block_scale_factor
        features = config.block_out_channels[-1]
        is_default = config.resnet_time_scale_shift == "default"
        groups = config.attn_norm_num_groups or is_default * config.norm_num_groups
        h = _resnet(config, features, "resnets.0", factor=factor)(h, emb, dropout)
        if config.add_attention:
            h = _attention(config, "attentions.0", groups, factor)(h)
        return _resnet(config, features, "resnets.1", factor=factor)(h, emb, dropout)


class UpBlock(nn.Module):
    """One level on the way up: residual blocks, attention, and upsampling.

    Attributes:
      config: settings of the network.
      place: number of the block; 0 is the smallest level.
    """

    config: DiffusersUNetConfig
    place: int

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "b h w c"],
        skips: list[Array],
        emb: Float[Array, "b e"],
        dropout: Any,
    ) -> Float[Array, "b _h _w d"]:
        """Returns the features of the next level; takes `skips` from the end."""
        config, kind = self.config, self.config.up_block_types[self.place]
        features = config.block_out_channels[-1 - self.place]
        for i in range(config.layers_per_block + 1):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = _resnet(config, features, f"resnets.{i}")(h, emb, dropout)
            if kind == "AttnUpBlock2D":
                h = _attention(config, f"attentions.{i}")(h)
        if self.place + 1 == len(config.block_out_channels):
            return h
        if _is_by_conv(kind, config.upsample_type):
            return Upsample(config, features, name="upsamplers.0")(h)
        return _resnet(config, features, "upsamplers.0", "up")(h, emb, dropout)


class Downsample(nn.Module):
    """A convolution with a stride of 2.

    Without `downsample_padding` zeros are added at the right and lower edges alone.
    """

    config: DiffusersUNetConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        """Halves height and width."""
        return nn.Conv(
            self.features,
            (3, 3),
            strides=(2, 2),
            padding=((self.config.downsample_padding, 1),) * 2,
            dtype=jnp.dtype(self.config.dtype),
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Nearest neighbours, then a convolution."""

    config: DiffusersUNetConfig
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        """Doubles height and width."""
        dtype = jnp.dtype(self.config.dtype)
        return Conv3x3(self.features, upsampled=True, dtype=dtype, name="conv")(x)


class ResnetBlock(nn.Module):
    """Two convolutions with a shortcut: (x + branch) / factor.

    Attributes:
      config: settings of the network.
      features: channels of the result.
      resample: whether branch and shortcut change their size, and how.
      factor: divisor of the sum.
    """

    config: DiffusersUNetConfig
    features: int
    resample: Resample | None = None
    factor: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """Returns features at the resampled size."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        h = nn.silu(_norm(config, "norm1", dtype)(x))
        if self.resample == "down":
            h, x = downsample(h), downsample(x)
        elif self.resample == "up":
            x = upsample(x)
        is_up = self.resample == "up"
        h = Conv3x3(self.features, upsampled=is_up, dtype=dtype, name="conv1")(h)
        h = nn.silu(self._modulated(h, emb))
        if dropout is not None:
            h = drop(h, dropout, "/".join(self.path))
        h = Conv3x3(self.features, zero=True, dtype=dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            shortcut = nn.Conv(self.features, (1, 1), dtype=dtype, name="conv_shortcut")
            x = shortcut(x)
        return (x + h) / self.factor

    def _modulated(self, h: Array, emb: Array) -> Array:
        """Returns the norm of the features, with the embedding added or as its gain."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        norm = _norm(config, "norm2", dtype)
        is_added = config.resnet_time_scale_shift == "default"
        width = self.features if is_added else 2 * self.features
        emb = nn.Dense(width, dtype=dtype, name="time_emb_proj")(nn.silu(emb))
        if is_added:
            return norm(h + emb[:, None, None])
        scale, shift = jnp.split(emb, 2, axis=-1)
        return norm(h, (scale, shift))


class Attention(nn.Module):
    """Self-attention over all pixels: (x + attention(norm(x))) / factor.

    Attributes:
      config: settings of the network.
      groups: groups of the norm; 0 for no norm.
      factor: divisor of the sum.
    """

    config: DiffusersUNetConfig
    groups: int
    factor: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns features of the same size."""
        batch, height, width, channels = x.shape
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        size = config.attention_head_dim or channels
        h = x.astype(dtype)
        if self.groups:
            h = GroupNorm(dtype, config.norm_eps, self.groups, name="group_norm")(h)
        h = h.reshape(batch, height * width, channels)

        def heads(name: str) -> Array:
            projected = nn.Dense(channels, dtype=dtype, name=name)(h)
            return projected.reshape(batch, -1, channels // size, size)

        mixed = attention(heads("to_q"), heads("to_k"), heads("to_v"))
        out = nn.Dense(
            channels,
            kernel_init=nn.initializers.zeros,
            dtype=dtype,
            name="to_out.0",
        )(mixed.reshape(h.shape))
        return (x + out.reshape(x.shape)) / self.factor


def _is_by_conv(kind: str, resampler: Resampler) -> bool:
    """Whether a block changes the size by a convolution, not by a residual block."""
    plain, attending = ("DownBlock2D", "UpBlock2D"), kind.startswith("Attn")
    return kind in plain or (attending and resampler == "conv")


def _norm(config: DiffusersUNetConfig, name: str, dtype: Any) -> GroupNorm:
    return GroupNorm(dtype, config.norm_eps, config.norm_num_groups, name=name)


def _resnet(
    config: DiffusersUNetConfig,
    features: int,
    name: str,
    resample: Resample | None = None,
    factor: float = 1.0,
) -> ResnetBlock:
    block = recomputing(ResnetBlock, config.remat)
    return block(config, features, resample, factor, name=name)


def _attention(
    config: DiffusersUNetConfig,
    name: str,
    groups: int | None = None,
    factor: float = 1.0,
) -> Attention:
    block = recomputing(Attention, config.remat)
    groups = config.norm_num_groups if groups is None else groups
    return block(config, groups, factor, name=name)
