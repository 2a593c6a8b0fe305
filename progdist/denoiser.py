"""From a network and its parameters to a denoiser: (z_t, logsnr_t) -> Prediction."""

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from progdist.diffusion.prediction import Denoise, Prediction, Target, from_output
from progdist.trainer.state import Params


def bind(
    net: nn.Module,
    params: Params,
    output: Target,
    label: Int[Array, " b"] | None = None,
    dropout_keys: Key[Array, " b"] | None = None,
) -> Denoise:
    """Returns the denoiser of a network with these parameters.

    Args:
      net: called as net(z_t, logsnr_t, label, dropout_keys).
      params: its parameters.
      output: what the network's output stands for.
      label: classes of the batch; None for an unconditional network.
      dropout_keys: one key an example; None switches dropout off.
    """

    def denoise(z_t: Float[Array, "b *d"], logsnr_t: Float[Array, " b"]) -> Prediction:
        raw = net.apply({"params": params}, z_t, logsnr_t, label, dropout_keys)
        return from_output(raw, z_t, logsnr_t, output)  # pyright: ignore

    return denoise
