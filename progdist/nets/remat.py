"""Recomputation of activations in the backward pass."""

from typing import Any, TypeVar, get_args

import flax.linen as nn
import jax
from jax.extend.core import Primitive

from progdist.nets.types import Remat

_Block = TypeVar("_Block", bound=type[nn.Module])


def recomputing(block: _Block, remat: Remat) -> _Block:
    """Returns the block, recomputing in the backward pass what `remat` says.

    Raises:
      ValueError: if `remat` is not one of `Remat`.
    """
    match remat:
        case "none":
            return block
        case "blocks":
            return nn.remat(block)
        case "dots":
            return nn.remat(block, policy=_is_kept)
    raise ValueError(f"remat: {remat!r} is not one of {get_args(Remat)}")


def _is_kept(primitive: Primitive, *args: Any, **params: Any) -> bool:
    """Whether "dots" keeps a result: of a convolution or a product with weights.

    Products of activations, in attention, are large and are computed again.
    """
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return primitive is jax.lax.conv_general_dilated_p or dots(
        primitive, *args, **params
    )
