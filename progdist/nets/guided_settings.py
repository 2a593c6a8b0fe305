"""Settings of the U-Net of guided-diffusion, as plain data without JAX."""

import dataclasses
from typing import Literal

from progdist.nets.types import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_LEVELS,
    SMOKE_LEVELS,
    DType,
    ImageShape,
    Remat,
    Timesteps,
    require,
    require_at_most,
)

Precondition = Literal["none", "edm", "consistency"]
"""How a network sees the noise; see `guided_unet.preconditioning`."""

AttentionOrder = Literal["legacy", "new"]
"""Order of the rows of qkv: q, k, v of each head in turn; or all q, all k, all v."""

_GROUPS = 32  # of every norm


@dataclasses.dataclass
class GuidedUNetConfig:
    """Settings of `progdist.nets.guided_unet.GuidedUNet`.

    Attributes:
      ch: width of the embedding of the timestep; 4 ch is that of all embeddings.
      channels: channels of each level, multiples of 32; each level after the first
        halves height and width.
      num_res_blocks: blocks per level on the way down; one more on the way up.
      attn_factors: factors of downsampling, 1, 2, 4, …, of the levels with attention.
      num_heads: number of attention heads, if head_dim is 0.
      head_dim: channels per attention head; 0 to use num_heads.
      num_classes: number of classes; 0 ignores the labels.
      resblock_updown: whether residual blocks change the size; otherwise convolutions.
      scale_shift_norm: whether the embedding scales and shifts the second norm of a
        block; otherwise it is added before that norm.
      precondition: "none" for a network that sees z_t and a timestep.
      timesteps: the noise levels, if precondition is "none".
      rescale_timesteps: whether the network sees timesteps of a range of 1000, whatever
        their number.
      dtype: dtype of the computation; parameters, statistics, preconditioning and the
        last convolution are always float32.
      remat: activations that the backward pass recomputes; see `UNetConfig`.
    """

    ch: int = 64
    channels: tuple[int, ...] = (64, 128)
    num_res_blocks: int = 2
    attn_factors: tuple[int, ...] = ()
    num_heads: int = 1
    head_dim: int = 0
    num_classes: int = 0
    resblock_updown: bool = True
    scale_shift_norm: bool = True
    precondition: Precondition = "none"
    timesteps: Timesteps = dataclasses.field(default_factory=Timesteps)
    rescale_timesteps: bool = False
    dtype: DType = "float32"
    remat: Remat = "none"

    def check(self, image_shape: ImageShape) -> None:
        """Refuses settings that do not fit images of this shape.

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
        for field in ("num_res_blocks", "num_heads"):
            require(getattr(self, field) >= 1, self, field, "at least 1")
        require_at_most(MOST_BLOCKS, self, "num_res_blocks")
        for field in ("head_dim", "num_classes"):
            require(getattr(self, field) >= 0, self, field, "at least 0")
        require(self.ch >= 2 and self.ch % 2 == 0, self, "ch", "even, at least 2")
        ok = bool(self.channels) and all(c > 0 and c % 32 == 0 for c in self.channels)
        require(ok, self, "channels", f"multiples of {_GROUPS}, at least one")
        ok = len(self.channels) <= MOST_LEVELS
        require(ok, self, "channels", f"at most {MOST_LEVELS} levels")
        require_at_most(MOST_CHANNELS, self, "ch", "channels", "head_dim", "num_heads")
        require_at_most(MOST_CLASSES, self, "num_classes")
        self.timesteps.check("timesteps.")
        self._check_sizes(image_shape)
        self._check_heads()

    def _check_sizes(self, image_shape: ImageShape) -> None:
        factors = tuple(2**level for level in range(len(self.channels)))
        ok = all(side % factors[-1] == 0 for side in image_shape[:2])
        rule = f"such that {factors[-1]} divides the sides of image_shape {image_shape}"
        require(ok, self, "channels", rule)
        ok = set(self.attn_factors) <= set(factors)
        require(ok, self, "attn_factors", f"among {factors}")

    def _check_heads(self) -> None:
        """Refuses heads that do not divide the channels of an attention block."""
        levels = {factor.bit_length() - 1 for factor in self.attn_factors}
        widths = {self.channels[level] for level in levels} | {self.channels[-1]}
        field = "head_dim" if self.head_dim else "num_heads"
        ok = all(width % getattr(self, field) == 0 for width in widths)
        rule = f"a divisor of the channels with attention, {sorted(widths)}"
        require(ok, self, field, rule)

    def portable(self) -> "GuidedUNetConfig":
        """Returns the settings in float32, without recomputation."""
        return dataclasses.replace(self, dtype="float32", remat="none")

    def smoke(self, image_shape: ImageShape) -> "GuidedUNetConfig":
        """Returns a narrow network of at most two levels, for a first test."""
        num_levels = min(len(self.channels), SMOKE_LEVELS)
        return dataclasses.replace(
            self,
            ch=_GROUPS,
            channels=(_GROUPS,) * num_levels,
            num_res_blocks=1,
            attn_factors=tuple(n for n in self.attn_factors if n < 2**num_levels),
            num_heads=1,
            head_dim=0,
        )
