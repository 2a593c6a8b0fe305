"""Settings of the networks, as plain data without JAX.

`NetConfig` is the closed set of them; `networks.make_net` builds their networks.
"""

import dataclasses

from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.nets.guided_settings import GuidedUNetConfig
from progdist.nets.types import (
    MOST_BLOCKS,
    MOST_CHANNELS,
    SMOKE_LEVELS,
    DType as DType,
    ImageShape as ImageShape,
    MatmulPrecision as MatmulPrecision,
    Remat,
    require as _require,
)

_SMOKE_CHANNELS = 16


@dataclasses.dataclass
class UNetConfig:
    """Settings of `progdist.nets.unet.UNet`.

    Attributes:
      ch: channels of the first level; even, at least 4.
      emb_ch: width of the embedding of log-SNR and class.
      ch_mult: channels of each level over `ch`; each level halves height and width.
      num_res_blocks: blocks per level on the way down; one more on the way up.
      attn_resolutions: heights of the feature maps with attention.
      num_heads: number of attention heads, if head_dim is 0.
      head_dim: channels per attention head; 0 to use num_heads.
      num_groups: groups of every GroupNorm, a divisor of ch; 0 for 32 in norms whose
        channels 64 divides, and fewer in others: half the largest power of 2 that
        divides them.
      num_classes: number of classes; 0 ignores the labels.
      patch_size: side of the pixel squares folded into channels; 1 as published.
      dtype: dtype of the computation; parameters, statistics and the last convolution
        are always float32.
      remat: activations that the backward pass recomputes, to save memory: "none";
        "blocks", all within a block; "dots", all but the outputs of convolutions and
        dense layers.
    """

    ch: int = 64
    emb_ch: int = 256
    ch_mult: tuple[int, ...] = (1, 2)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    num_heads: int = 1
    head_dim: int = 0
    num_groups: int = 0
    num_classes: int = 0
    patch_size: int = 1
    dtype: DType = "float32"
    remat: Remat = "none"

    def check(self, image_shape: ImageShape) -> None:
        """Refuses settings that do not fit images of this shape.

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
        for field in ("emb_ch", "num_res_blocks", "num_heads", "patch_size"):
            _require(getattr(self, field) >= 1, self, field, "at least 1")
        _require(self.num_res_blocks <= MOST_BLOCKS, self, "num_res_blocks", "<= 100")
        for field in ("head_dim", "num_groups", "num_classes"):
            _require(getattr(self, field) >= 0, self, field, "at least 0")
        _require(self.ch >= 4 and self.ch % 2 == 0, self, "ch", "even, >= 4")
        _require(self.ch <= MOST_CHANNELS, self, "ch", f"at most {MOST_CHANNELS:,}")
        # Every norm has a multiple of ch channels, those of concatenations included.
        ok = self.ch % (self.num_groups or 1) == 0
        _require(ok, self, "num_groups", f"0, or a divisor of ch={self.ch}")
        ok = len(self.ch_mult) >= 1 and min(self.ch_mult) >= 1
        _require(ok, self, "ch_mult", "at least one factor, each >= 1")
        factor = self.patch_size * 2 ** (len(self.ch_mult) - 1)
        ok = all(side % factor == 0 for side in image_shape[:2])
        rule = (
            f"such that the image_shape {image_shape} is divisible by {factor} "
            f"(patch_size={self.patch_size} times 2 a level after the first)"
        )
        _require(ok, self, "ch_mult", rule)
        heights = self.heights(image_shape)
        ok = set(self.attn_resolutions) <= set(heights)
        rule = f"among the heights of the feature maps, {heights}"
        _require(ok, self, "attn_resolutions", rule)
        field = "head_dim" if self.head_dim else "num_heads"
        ok = all(self.ch * mult % getattr(self, field) == 0 for mult in self.ch_mult)
        rule = f"a divisor of each level's channels, {self.ch} times {self.ch_mult}"
        _require(ok, self, field, rule)

    def portable(self) -> "UNetConfig":
        """Returns the settings in float32, without recomputation."""
        return dataclasses.replace(self, dtype="float32", remat="none")

    def smoke(self, image_shape: ImageShape) -> "UNetConfig":
        """Returns a narrow network of at most two levels, for a first test."""
        small = dataclasses.replace(
            self,
            ch=_SMOKE_CHANNELS,
            emb_ch=2 * _SMOKE_CHANNELS,
            ch_mult=self.ch_mult[:SMOKE_LEVELS],
            num_res_blocks=1,
            head_dim=min(self.head_dim, _SMOKE_CHANNELS),
            num_groups=0,
        )
        heights = small.heights(image_shape)
        small.attn_resolutions = tuple(n for n in self.attn_resolutions if n in heights)
        return small

    def heights(self, image_shape: ImageShape) -> list[int]:
        """Returns the height of the feature maps at each level."""
        top = image_shape[0] // self.patch_size
        return [top // 2**level for level in range(len(self.ch_mult))]


NetConfig = UNetConfig | DiffusersUNetConfig | GuidedUNetConfig


def norm_groups(net: NetConfig, num_groups: int | None = None) -> int:
    """Returns the groups of every norm of a network; 0 if they differ between norms.

    Args:
      net: settings of the network.
      num_groups: the groups, if not those of the settings.
    """
    match net:
        case UNetConfig():
            chosen = net.num_groups if num_groups is None else num_groups
            return chosen or (32 if net.ch % 64 == 0 else 0)
        case DiffusersUNetConfig():
            return net.norm_num_groups
    return 0


def released_groups(net: NetConfig) -> int:
    """Returns the groups of a network that the published code trained: always 32.

    0 if that code cannot have trained it.
    """
    match net:
        case UNetConfig():
            return 0 if net.ch % 32 else 32
    return 0
