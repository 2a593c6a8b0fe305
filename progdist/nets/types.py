"""Types and limits that the settings of all networks share, without JAX."""

import dataclasses
from typing import Any, Literal

DType = Literal["float32", "bfloat16"]
MatmulPrecision = Literal["default", "high", "tensorfloat32", "bfloat16_3x", "highest"]
Remat = Literal["none", "blocks", "dots"]
BetaRule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Betas = Literal[BetaRule, "trained"]
ImageShape = tuple[int, int, int]

# Beyond these the sizes alone, before any parameter, take memory or overflow.
MOST_CHANNELS = 2**16
MOST_PIXELS = 2**14  # of a side of an image
MOST_CLASSES = 2**20
MOST_BLOCKS = 100  # a level; more compile for hours
MOST_LEVELS = 16
SMOKE_LEVELS = 2
# At more of them float32 does not tell a noise level from its neighbours everywhere.
_MOST_TIMESTEPS = 10_000
_MOST_SHOWN = 200  # characters of a value in a message


@dataclasses.dataclass(unsafe_hash=True)
class Timesteps:
    """Discrete noise levels k = 0 … num_timesteps - 1 of a network, as of DDPM.

    Level k has alpha² = prod_{j <= k} (1 - beta_j).

    Attributes:
      betas: rule of the betas; "trained" takes those of `trained_betas`.
      num_timesteps: T, their number.
      beta_start: the first beta, for the two linear rules.
      beta_end: the last beta, for the two linear rules.
      trained_betas: the betas, for "trained".
      zero_terminal_snr: whether sqrt(alpha²) is shifted and scaled to end at 0 (Lin et
        al. 2023, algorithm 1).
    """

    betas: Betas = "linear"
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    trained_betas: tuple[float, ...] = ()
    zero_terminal_snr: bool = False

    def check(self, prefix: str = "") -> None:
        """Refuses betas outside (0, 1), and a number of them that is out of range.

        Args:
          prefix: of the fields in messages, such as "timesteps.".

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from None

    def _check(self) -> None:
        least = 2 if self.zero_terminal_snr else 1
        ok = least <= self.num_timesteps <= _MOST_TIMESTEPS
        rule = f"{least} to {_MOST_TIMESTEPS:,}"
        require(ok, self, "num_timesteps", rule)
        for field in ("beta_start", "beta_end"):
            require(0 < getattr(self, field) < 1, self, field, "above 0 and below 1")
        if self.betas == "trained":
            count, betas = self.num_timesteps, self.trained_betas
            ok = len(betas) == count and all(0 < beta < 1 for beta in betas)
            if not ok:
                raise ValueError(f"trained_betas: must be {count:,} numbers in (0, 1)")


def require(ok: bool, config: Any, field: str, rule: str) -> None:
    """Refuses a field of settings, unless it is ok.

    Raises:
      ValueError: naming field, value and rule.
    """
    if not ok:
        value = repr(getattr(config, field))
        raise ValueError(f"{field}={value:.{_MOST_SHOWN}}: must be {rule}")


def require_at_most(most: int, config: Any, *fields: str) -> None:
    """Refuses fields above a limit; of tuples, any of the values.

    Raises:
      ValueError: naming the first such field.
    """
    for field in fields:
        value = getattr(config, field)
        values = value if isinstance(value, tuple) else (value,)
        require(max(values, default=0) <= most, config, field, f"at most {most:,}")
