"""Teachers: what every reader returns, and what a file may not tell."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from progdist.diffusion.settings import Parameterization
from progdist.model import Params
from progdist.nets.guided_settings import AttentionOrder, Precondition
from progdist.nets.settings import Betas
from progdist.sampling.cards import Card


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
      attention_order: order of q, k and v, for files of guided-diffusion.
      image_size: height and width of the images, where the parameters do not show it.
      num_timesteps: number of noise levels, for files of guided-diffusion; 1000 there.
      rescale_timesteps: whether the network saw timesteps of a range of 1000, if it has
        another number of them.
    """

    output: Parameterization | None = None
    betas: Betas | None = None
    precondition: Precondition | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    attention_order: AttentionOrder | None = None
    image_size: int | None = None
    num_timesteps: int | None = None
    rescale_timesteps: bool | None = None


class Teacher(NamedTuple):
    """A trained model in some format.

    Attributes:
      card: card of the model; see `progdist.sampling.cards`. `phase` is 0 and
        `num_steps` the usual number of steps, or of a student 1 and its own number.
      read: returns the parameters, as NumPy arrays in the tree of the network.
      path: of a model that progdist itself reads, without `read`.
    """

    card: Card
    read: Callable[[], Params] = dict
    path: Path | None = None
