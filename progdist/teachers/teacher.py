"""Teachers: what every reader returns, and facts that a file may lack."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.model import Params
from progdist.nets.guided_settings import AttentionOrder, Precondition
from progdist.nets.types import BetaRule
from progdist.sampling.cards import Card


class Options(NamedTuple):
    """Facts that a model's file may lack; None where they are not given.

    Attributes:
      output: meaning of the network's output; for .pt and released flax files, and for
        networks of diffusers, whose scheduler it overrides.
      betas: rule of the betas; for .pt files, and for networks of diffusers, whose
        scheduler it overrides.
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
    betas: BetaRule | None = None
    precondition: Precondition | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    attention_order: AttentionOrder | None = None
    image_size: int | None = None
    num_timesteps: int | None = None
    rescale_timesteps: bool | None = None

    def given(self) -> dict[str, Any]:
        """Returns those that are given."""
        return {n: value for n, value in self._asdict().items() if value is not None}

    def check_applicable(self, names: Collection[str], why: str) -> None:
        """Refuses options that do not apply.

        Args:
          names: options that do.
          why: end of the message, which says why others do not.

        Raises:
          UsageError: naming the first such option as a flag.
        """
        for name, value in self.given().items():
            if name not in names:
                flag = f"--{'no' * (value is False)}{name}"
                raise UsageError(f"{flag}: does not apply; {why}")


class Teacher(NamedTuple):
    """A trained model in some format.

    Attributes:
      card: card of the model; see `progdist.sampling.cards`. `phase` is 0 and
        `num_steps` the usual number of steps, or of a student 1 and its own number.
      read: returns the parameters, as NumPy arrays in the tree of the network.
      path: of a model that progdist itself reads, without `read`.
      is_own: whether progdist wrote it, with a card.
    """

    card: Card
    read: Callable[[], Params] = dict
    path: Path | None = None
    is_own: bool = False
