"""Types of the fields that settings of several networks share, without JAX."""

import dataclasses
from typing import Any, Literal

DType = Literal["float32", "bfloat16"]
MatmulPrecision = Literal["default", "high", "tensorfloat32", "bfloat16_3x", "highest"]
Remat = Literal["none", "blocks", "dots"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "trained"]
ImageShape = tuple[int, int, int]

_MOST_TIMESTEPS = 100_000


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

    def check(self) -> None:
        """Refuses noise levels that are none.

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
        ok = 1 <= self.num_timesteps <= _MOST_TIMESTEPS
        require(ok, self, "num_timesteps", f"1 to {_MOST_TIMESTEPS:,}")
        ok = 0 < self.beta_start <= self.beta_end < 1
        require(ok, self, "beta_start", "above 0 and at most beta_end, which is < 1")
        ok = self.betas != "trained" or len(self.trained_betas) == self.num_timesteps
        require(ok, self, "betas", "another rule, or come with num_timesteps betas")


def require(ok: bool, config: Any, field: str, rule: str) -> None:
    """Refuses a field of settings, unless it is ok.

    Raises:
      ValueError: naming field, value and rule.
    """
    if not ok:
        raise ValueError(f"{field}={getattr(config, field)!r}: must be {rule}")
