"""The U-Net of guided-diffusion (Dhariwal & Nichol 2021), also of its relatives.

improved-diffusion (Nichol & Dhariwal 2021) has the same layout, and consistency_models
(Song et al. 2023) puts the preconditioning of EDM (Karras et al. 2022) around it.
Parameters are named as there: `input_blocks.1.0` / `in_layers.2` / `kernel`, with dots.
In every attention block q, k and v are the three thirds of `qkv`, whatever their order
in a file.
"""

import functools
import itertools
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from progdist.nets.blocks import Conv3x3, Dropout, Resample
from progdist.nets.conditioning import Conditioning
from progdist.nets.guided_blocks import GuidedAttention, GuidedBlock, Resize, norm
from progdist.nets.guided_settings import Precondition
from progdist.nets.remat import recomputing
from progdist.nets.timesteps import (
    check_inputs,
    embed_timestep,
    logsnr_of,
    timestep_of,
)
from progdist.nets.types import Remat, Timesteps

_SIGMA_DATA, _SIGMA_MIN = 0.5, 0.002


class Preconditioning(NamedTuple):
    """Factors such that x̂ = skip z + output F(input z, timestep).

    Attributes:
      skip: c_skip / alpha.
      output: c_out.
      input: c_in / alpha.
      timestep: noise level as the network sees it.
    """

    skip: Float[Array, " b"]
    output: Float[Array, " b"]
    input: Float[Array, " b"]
    timestep: Float[Array, " b"]


def preconditioning(logsnr: Float[Array, " b"], kind: Precondition) -> Preconditioning:
    """Returns the preconditioning of z = alpha (x + sigma eps).

    sigma = exp(-logsnr / 2) is the noise level of the two papers, and 1 / alpha =
    sqrt(1 + sigma²). "edm" is table 1 of Karras et al. (2022); "consistency" is
    appendix C of Song et al. (2023), where x̂ is the input at sigma = 0.002. Both see
    the noise as 1000 log(sigma) / 4, and have sigma_data = 0.5.

    Raises:
      ValueError: if `kind` has no factors.
    """
    sigma = jnp.exp(-0.5 * logsnr)
    variance = sigma**2 + _SIGMA_DATA**2
    per_alpha = jnp.sqrt(1 + sigma**2)
    match kind:
        case "edm":
            above = sigma
        case "consistency":
            above = sigma - _SIGMA_MIN
        case _:
            accepted = ", ".join(get_args(Precondition)[1:])
            raise ValueError(f"precondition: {kind!r} is not one of {accepted}")
    return Preconditioning(
        skip=per_alpha * _SIGMA_DATA**2 / (above**2 + _SIGMA_DATA**2),
        output=above * _SIGMA_DATA / jnp.sqrt(variance),
        input=per_alpha / jnp.sqrt(variance),
        timestep=-125.0 * logsnr,
    )


class GuidedUNet(nn.Module):
    """The U-Net of guided-diffusion, or x̂ of such a network with preconditioning.

    Attributes:
      out_ch: channels of the output.
      dtype: dtype of the computation.
      ch: this and the others are those of `guided_settings.GuidedUNetConfig`.
    """

    ch: int
    channels: tuple[int, ...]
    num_res_blocks: int
    attn_factors: tuple[int, ...]
    num_heads: int
    head_dim: int
    num_classes: int
    resblock_updown: bool
    scale_shift_norm: bool
    precondition: Precondition
    timesteps: Timesteps
    rescale_timesteps: bool
    out_ch: int
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
          z: noisy images; height and width divisible by 2^(levels - 1).
          logsnr: log-SNR of `z`.
          conditioning: its label is required if `num_classes` > 0, otherwise ignored.
          dropout: dropout of the pass; None for none.

        Raises:
          ValueError: if size or conditioning do not fit the network.
        """
        label = conditioning.label if conditioning else None
        check_inputs(z, label, len(self.channels), self.num_classes)
        if self.precondition == "none":
            emb = self._embed(self._timestep(logsnr), label)
            return self._evaluate(z, emb, dropout)
        factors = preconditioning(logsnr, self.precondition)
        skip, output, scale = (f[:, None, None, None] for f in factors[:3])
        emb = self._embed(factors.timestep, label)
        return skip * z + output * self._evaluate(scale * z, emb, dropout)

    def _timestep(self, logsnr: Array) -> Array:
        """Returns the noise level as the network sees it, without preconditioning."""
        timestep = timestep_of(logsnr, logsnr_of(self.timesteps))
        count = self.timesteps.num_timesteps
        return timestep * (1000.0 / count) if self.rescale_timesteps else timestep

    def _embed(self, timestep: Array, label: Array | None) -> Array:
        """Returns the embedding of the timestep, plus that of the class."""
        dense = functools.partial(nn.Dense, 4 * self.ch, dtype=self.dtype)
        emb = dense(name="time_embed.0")(embed_timestep(timestep, self.ch))
        emb = dense(name="time_embed.2")(nn.swish(emb))
        if self.num_classes > 0:
            table = nn.Embed(
                self.num_classes, 4 * self.ch, self.dtype, name="label_emb"
            )
            emb += table(label)
        return emb

    def _evaluate(self, z: Array, emb: Array, dropout: Dropout | None) -> Array:
        """Returns the output of the U-Net itself."""
        skips = self._down(z.astype(self.dtype), emb, dropout)
        h, width = skips[-1], self.channels[-1]
        h = self._block(width, "middle_block.0")(h, emb, dropout)
        h = self._attend(h, "middle_block.1")
        h = self._block(width, "middle_block.2")(h, emb, dropout)
        h = self._up(h, skips, emb, dropout)
        h = nn.swish(norm(z.dtype, "out.0")(h))
        return Conv3x3(self.out_ch, zero=True, dtype=z.dtype, name="out.2")(h)

    def _down(self, h: Array, emb: Array, dropout: Dropout | None) -> list[Array]:
        """Returns all feature maps on the way down; the last is the smallest."""
        conv = Conv3x3(self.channels[0], dtype=self.dtype, name="input_blocks.0.0")
        skips = [conv(h)]
        for level, width in enumerate(self.channels):
            for _ in range(self.num_res_blocks):
                place = f"input_blocks.{len(skips)}"
                h = self._block(width, f"{place}.0")(skips[-1], emb, dropout)
                if 2**level in self.attn_factors:
                    h = self._attend(h, f"{place}.1")
                skips.append(h)
            if level + 1 < len(self.channels):
                shrink = self._resize(width, f"input_blocks.{len(skips)}.0", "down")
                skips.append(shrink(skips[-1], emb, dropout))
        return skips

    def _up(
        self, h: Array, skips: list[Array], emb: Array, dropout: Dropout | None
    ) -> Array:
        """Returns to the original size; consumes `skips` from the end."""
        places = itertools.count()
        for level in reversed(range(len(self.channels))):
            attends = 2**level in self.attn_factors
            for i in range(self.num_res_blocks + 1):
                place, width = f"output_blocks.{next(places)}", self.channels[level]
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(width, f"{place}.0")(h, emb, dropout)
                if attends:
                    h = self._attend(h, f"{place}.1")
                if level > 0 and i == self.num_res_blocks:
                    grow = self._resize(width, f"{place}.{1 + attends}", "up")
                    h = grow(h, emb, dropout)
        return h

    def _block(
        self, width: int, name: str, resample: Resample | None = None
    ) -> GuidedBlock:
        """Returns a residual block."""
        block = recomputing(GuidedBlock, self.remat)
        return block(width, resample, self.scale_shift_norm, self.dtype, name=name)

    def _attend(self, h: Array, name: str) -> Array:
        """Applies an attention block."""
        block = recomputing(GuidedAttention, self.remat)
        heads = h.shape[-1] // self.head_dim if self.head_dim else self.num_heads
        return block(heads, self.dtype, name=name)(h)

    def _resize(self, width: int, name: str, resample: Resample) -> nn.Module:
        """Returns what halves or doubles height and width."""
        if self.resblock_updown:
            return self._block(width, name, resample)
        return Resize(width, resample, self.dtype, name=name)
