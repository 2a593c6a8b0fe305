"""Networks by their settings."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.nets.diffusers_unet import DiffusersUNet
from progdist.nets.guided_settings import GuidedUNetConfig
from progdist.nets.guided_unet import GuidedUNet
from progdist.nets.settings import NetConfig, UNetConfig
from progdist.nets.unet import UNet


def make_net(config: NetConfig, out_ch: int) -> nn.Module:
    """Returns the network, called as net(z, logsnr, conditioning, dropout).

    Args:
      config: settings of the network.
      out_ch: number of output channels.

    Raises:
      ValueError: if the settings are not one of `NetConfig`.
    """
    match config:
        case UNetConfig():
            return UNet(**_fields(config), out_ch=out_ch)
        case DiffusersUNetConfig():
            return DiffusersUNet(config, out_ch)
        case GuidedUNetConfig():
            return GuidedUNet(**_fields(config), out_ch=out_ch)
    raise ValueError(f"net: {config!r} is not one of the known settings")


def _fields(config: UNetConfig | GuidedUNetConfig) -> dict[str, Any]:
    return vars(config) | {"dtype": jnp.dtype(config.dtype)}
