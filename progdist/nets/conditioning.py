"""Conditioning: a network's inputs besides z_t and its log-SNR."""

from typing import NamedTuple

from jaxtyping import Array, Int


class Conditioning(NamedTuple):
    """Conditioning of a batch.

    Attributes:
      label: class of each example in [0, num_classes); None without classes.
    """

    label: Int[Array, " b"] | None = None
