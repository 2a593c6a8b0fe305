"""The U-Net of Salimans & Ho (2022), in the layout of the released checkpoints.

The network knows the noise level only as a log-SNR, and not the meaning of its output.
Parameter names, including the dot in `down_0.block_0`, are those of the released trees,
so that public checkpoints load as they are.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from progdist.nets.blocks import (
    AttnBlock,
    Conv3x3,
    Dropout,
    GroupNorm,
    Resample,
    ResNetBlock,
    depth_to_space,
    space_to_depth,
)
from progdist.nets.conditioning import Conditioning
from progdist.nets.remat import recomputing
from progdist.nets.types import Remat


def embed_logsnr(logsnr: Float[Array, " b"], channels: int) -> Float[Array, "b c"]:
    """Sines, then cosines, of the diffusion angle atan(exp(-logsnr / 2)).

    The angle, as a fraction of pi / 2, is t of the cosine schedule up to its clipping;
    it is scaled by 1000 and embedded with frequencies 1 ... 1e-4.

    Args:
      logsnr: clipped at +-20.
      channels: even, at least 4.
    """
    half = channels // 2
    angle = jnp.arctan(jnp.exp(-0.5 * jnp.clip(logsnr, -20.0, 20.0))) / (0.5 * math.pi)
    rates = jnp.exp(-math.log(1e4) / (half - 1) * jnp.arange(half, dtype=angle.dtype))
    phases = 1000.0 * angle[:, None] * rates[None]
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)


class UNet(nn.Module):
    """The published U-Net; at `patch_size=1` it is exactly that of the paper.

    Attributes:
      out_ch: channels of the output.
      dtype: dtype of the computation; parameters are float32, and the last norm and
        convolution compute the output in z's dtype.
      ch: this and the others are those of `settings.UNetConfig`.
    """

    ch: int
    emb_ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    num_heads: int = 1
    head_dim: int = 0
    num_groups: int = 0
    num_classes: int = 0
    out_ch: int = 3
    patch_size: int = 1
    dtype: Any = jnp.float32
    remat: Remat = "none"

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
          z: noisy images; height and width divisible by
            `patch_size` * 2^(levels - 1).
          logsnr: log-SNR of `z`.
          conditioning: its label is required if `num_classes` > 0, otherwise ignored.
          dropout: dropout of the pass; None for none.

        Raises:
          ValueError: if size, channels or conditioning do not fit the network.
        """
        label = conditioning.label if conditioning else None
        self._check(z, label)
        emb = self._embed(logsnr, label)
        h = space_to_depth(z.astype(self.dtype), self.patch_size)
        skips = self._down(h, emb, dropout)
        h = self._middle(skips[-1], emb, dropout)
        h = self._up(h, skips, emb, dropout)
        norm = GroupNorm(z.dtype, num_groups=self.num_groups, name="norm_out")
        h = nn.swish(norm(h))
        features = self.out_ch * self.patch_size**2
        h = Conv3x3(features, zero=True, dtype=z.dtype, name="conv_out")(h)
        return depth_to_space(h, self.patch_size)

    def _check(self, z: Array, label: Array | None) -> None:
        """Refuses inputs that do not fit the network."""
        height, width = z.shape[1:3]
        factor = self.patch_size * 2 ** (len(self.ch_mult) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"image of {height}x{width}: height and width must be divisible by "
                f"{factor} (patch_size={self.patch_size}, ch_mult={self.ch_mult})"
            )
        if self.ch < 4 or self.ch % 2:
            raise ValueError(f"ch={self.ch}: must be even and at least 4")
        if self.num_classes > 0 and label is None:
            raise ValueError(f"label is None, num_classes={self.num_classes} needs one")

    def _embed(self, logsnr: Array, label: Array | None) -> Array:
        """Returns the embedding of the noise level, plus that of the class."""

        def dense(name: str) -> nn.Dense:
            return nn.Dense(self.emb_ch, dtype=self.dtype, name=name)

        emb = dense("dense0")(embed_logsnr(logsnr, self.ch))
        emb = dense("dense1")(nn.swish(emb))
        if self.num_classes > 0:
            emb += dense("class_emb")(jax.nn.one_hot(label, self.num_classes))
        return emb

    def _block(
        self, level: int, name: str, resample: Resample | None = None
    ) -> ResNetBlock:
        """Returns a residual block with the channels of its level."""
        block = recomputing(ResNetBlock, self.remat)
        features = self.ch * self.ch_mult[level]
        return block(features, resample, self.dtype, self.num_groups, name=name)

    def _attend(self, h: Array, name: str) -> Array:
        """Applies an attention block."""
        block = recomputing(AttnBlock, self.remat)
        settings = self.num_heads, self.head_dim, self.dtype, self.num_groups
        return block(*settings, name=name)(h)

    def _down(self, h: Array, emb: Array, dropout: Dropout | None) -> list[Array]:
        """Returns all feature maps on the way down; the last is the smallest."""
        skips = [Conv3x3(self.ch, dtype=self.dtype, name="conv_in")(h)]
        for level in range(len(self.ch_mult)):
            for i in range(self.num_res_blocks):
                h = self._block(level, f"down_{level}.block_{i}")(
                    skips[-1], emb, dropout
                )
                if h.shape[1] in self.attn_resolutions:
                    h = self._attend(h, f"down_{level}.attn_{i}")
                skips.append(h)
            if level + 1 < len(self.ch_mult):
                shrink = self._block(level, f"down_{level}.downsample", "down")
                skips.append(shrink(skips[-1], emb, dropout))
        return skips

    def _middle(self, h: Array, emb: Array, dropout: Dropout | None) -> Array:
        """Applies block, attention and block at the smallest size."""
        last = len(self.ch_mult) - 1
        h = self._block(last, "mid.block_1")(h, emb, dropout)
        h = self._attend(h, "mid.attn_1")
        return self._block(last, "mid.block_2")(h, emb, dropout)

    def _up(
        self, h: Array, skips: list[Array], emb: Array, dropout: Dropout | None
    ) -> Array:
        """Returns to the original size; consumes `skips` from the end."""
        for level in reversed(range(len(self.ch_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(level, f"up_{level}.block_{i}")(h, emb, dropout)
                if h.shape[1] in self.attn_resolutions:
                    h = self._attend(h, f"up_{level}.attn_{i}")
            if level > 0:
                h = self._block(level, f"up_{level}.upsample", "up")(h, emb, dropout)
        return h
