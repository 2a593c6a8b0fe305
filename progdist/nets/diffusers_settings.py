"""Settings of the network in the layout of diffusers, as plain data without JAX."""

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

DownBlockType = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UpBlockType = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
TimeScaleShift = Literal["default", "scale_shift"]
Resampler = Literal["conv", "resnet"]
ClassEmbedding = Literal["none", "timestep"]

_SMOKE_CHANNELS, _SMOKE_GROUPS = 16, 4


@dataclasses.dataclass(unsafe_hash=True)
class DiffusersUNetConfig:
    """Settings of `progdist.nets.diffusers_unet.DiffusersUNet`.

    The names are those of `config.json` of a diffusers `UNet2DModel`, except that
    `num_classes` is `num_class_embeds`, and 0 and "none" stand for None.

    Attributes:
      block_out_channels: channels of each level.
      down_block_types: block of each level on the way down; with "Attn", attention
        follows every residual block.
      up_block_types: block of each level on the way up, the smallest first.
      layers_per_block: residual blocks per level on the way down; one more on the way
        up.
      time_embedding_dim: width of the embedding of timestep and class; 0 for four times
        the channels of the first level.
      flip_sin_to_cos: whether the cosines of the timestep come before its sines.
      freq_shift: 0, or 1 for frequencies that end at exactly 1e-4.
      resnet_time_scale_shift: "default" adds the embedding before the second norm;
        "scale_shift" modulates that norm.
      downsample_type: "conv", or "resnet" for a residual block, in blocks with
        attention.
      upsample_type: the same on the way up.
      downsample_padding: 1, or 0 to pad the right and lower edges alone.
      attention_head_dim: channels per attention head; 0 for a single head.
      norm_num_groups: groups of every GroupNorm.
      attn_norm_num_groups: groups of the middle's attention; 0 for norm_num_groups, or
        for no norm with "scale_shift".
      norm_eps: added to the variance of every GroupNorm.
      mid_block_scale_factor: divisor of the sums in the middle.
      add_attention: whether the middle has attention.
      center_input_sample: whether images are scaled from [0, 1] to [-1, 1] first.
      class_embed_type: "none" for a learned vector per class; "timestep" embeds the
        class's number like a timestep.
      num_classes: number of classes; 0 ignores the labels.
      timesteps: noise levels of the timesteps that the network takes.
      dtype: dtype of the computation; parameters, statistics and the last convolution
        are always float32.
      remat: "none", "blocks" or "dots"; see `UNetConfig`.
    """

    block_out_channels: tuple[int, ...] = (32, 64)
    down_block_types: tuple[DownBlockType, ...] = ("DownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[UpBlockType, ...] = ("AttnUpBlock2D", "UpBlock2D")
    layers_per_block: int = 2
    time_embedding_dim: int = 0
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    resnet_time_scale_shift: TimeScaleShift = "default"
    downsample_type: Resampler = "conv"
    upsample_type: Resampler = "conv"
    downsample_padding: int = 1
    attention_head_dim: int = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int = 0
    norm_eps: float = 1e-5
    mid_block_scale_factor: float = 1.0
    add_attention: bool = True
    center_input_sample: bool = False
    class_embed_type: ClassEmbedding = "none"
    num_classes: int = 0
    timesteps: Timesteps = dataclasses.field(default_factory=Timesteps)
    dtype: DType = "float32"
    remat: Remat = "none"

    def check(self, image_shape: ImageShape) -> None:
        """Refuses settings that do not fit images of this shape.

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
        self._check_ranges()
        self._check_levels(image_shape)
        self._check_channels()
        self.timesteps.check("timesteps.")

    def portable(self) -> "DiffusersUNetConfig":
        """Returns the settings in float32, without recomputation."""
        return dataclasses.replace(self, dtype="float32", remat="none")

    def smoke(self, image_shape: ImageShape) -> "DiffusersUNetConfig":
        """Returns a narrow network of at most two levels, for a first test."""
        levels = min(len(self.block_out_channels), SMOKE_LEVELS)
        return dataclasses.replace(
            self,
            block_out_channels=(_SMOKE_CHANNELS,) * levels,
            down_block_types=self.down_block_types[:levels],
            up_block_types=self.up_block_types[-levels:],
            layers_per_block=1,
            time_embedding_dim=0,
            attention_head_dim=min(self.attention_head_dim, _SMOKE_CHANNELS // 2),
            norm_num_groups=_SMOKE_GROUPS,
            attn_norm_num_groups=min(self.attn_norm_num_groups, _SMOKE_GROUPS),
        )

    def _check_ranges(self) -> None:
        ok = 1 <= self.layers_per_block <= MOST_BLOCKS
        require(ok, self, "layers_per_block", f"1 to {MOST_BLOCKS}")
        for field in (
            *("time_embedding_dim", "attention_head_dim", "attn_norm_num_groups"),
            "num_classes",
        ):
            require(getattr(self, field) >= 0, self, field, "at least 0")
        fields = "block_out_channels", "time_embedding_dim", "attention_head_dim"
        require_at_most(MOST_CHANNELS, self, *fields)
        require_at_most(MOST_CLASSES, self, "num_classes")
        for field in ("freq_shift", "downsample_padding"):
            require(getattr(self, field) in (0, 1), self, field, "0 or 1")
        for field in ("norm_eps", "mid_block_scale_factor"):
            ok = 0 < getattr(self, field) < float("inf")
            require(ok, self, field, "above 0 and finite")
        ok = self.class_embed_type == "none" or self.num_classes > 0
        require(ok, self, "num_classes", "at least 1 for class_embed_type='timestep'")

    def _check_levels(self, image_shape: ImageShape) -> None:
        """Refuses levels without a block each, and images that cannot be halved."""
        count = len(self.block_out_channels)
        rule = f"at least one level, at most {MOST_LEVELS}"
        require(1 <= count <= MOST_LEVELS, self, "block_out_channels", rule)
        for field in ("down_block_types", "up_block_types"):
            ok = len(getattr(self, field)) == count
            require(ok, self, field, f"{count} blocks, as block_out_channels has")
        factor = 2 ** (count - 1)
        ok = all(side % factor == 0 for side in image_shape[:2])
        rule = f"such that the image_shape {image_shape} is divisible by {factor}"
        require(ok, self, "block_out_channels", rule)

    def _check_channels(self) -> None:
        """Refuses channels that groups or heads do not divide."""
        channels, field = self.block_out_channels, "block_out_channels"
        ok = min(channels) >= 4 and channels[0] % 2 == 0
        require(ok, self, field, "at least 4, the first of them even")
        # Every norm has the channels of one level, or of two concatenated ones.
        groups = self.norm_num_groups
        ok = groups >= 1 and all(n % groups == 0 for n in channels)
        require(ok, self, "norm_num_groups", f"a divisor of {field}={channels}")
        ok = channels[-1] % (self.attn_norm_num_groups or 1) == 0
        require(ok, self, "attn_norm_num_groups", f"0, or a divisor of {channels[-1]}")
        widths = self._attended()
        ok = all(n % (self.attention_head_dim or n) == 0 for n in widths)
        rule = f"0, or a divisor of the channels with attention, {widths}"
        require(ok, self, "attention_head_dim", rule)

    def _attended(self) -> list[int]:
        """Returns the channels of each attention block."""
        channels = self.block_out_channels
        down = zip(self.down_block_types, channels, strict=True)
        up = zip(self.up_block_types, reversed(channels), strict=True)
        widths = [n for block, n in (*down, *up) if block.startswith("Attn")]
        return widths + [channels[-1]] * self.add_attention
