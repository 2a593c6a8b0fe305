"""What a reader of models is given, and what it returns."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from progdist.diffusion.settings import Parameterization
from progdist.model import Params
from progdist.nets.settings import Betas
from progdist.sampling.cards import Card

Precondition = Literal["none", "edm", "consistency"]


class Options(NamedTuple):
    """Facts of a model that its file may not hold; None where they are not given.

    Attributes:
      output: meaning of the network's output, for released flax files, and for
        networks of diffusers without a scheduler.
      betas: rule of the betas, for files of guided-diffusion, and for networks of
        diffusers without a scheduler.
      precondition: preconditioning, for files of consistency_models.
      num_heads: number of attention heads, if head_dim is None.
      head_dim: channels per attention head.
    """

    output: Parameterization | None = None
    betas: Betas | None = None
    precondition: Precondition | None = None
    num_heads: int | None = None
    head_dim: int | None = None


class Teacher(NamedTuple):
    """A trained model in some format.

    Attributes:
      card: card of the model; see `progdist.sampling.cards`. `phase` is 0 and
        `num_steps` the usual number of steps, or of a student 1 and its own number.
      read: returns the parameters, as NumPy arrays in the tree of the network.
    """

    card: Card
    read: Callable[[], Params]
