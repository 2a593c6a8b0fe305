"""Types that the settings of all networks share, as plain data without JAX."""

import dataclasses
from typing import Any, Literal

DType = Literal["float32", "bfloat16"]
MatmulPrecision = Literal["default", "high", "tensorfloat32", "bfloat16_3x", "highest"]
Remat = Literal["none", "blocks", "dots"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "trained"]
ImageShape = tuple[int, int, int]

_MOST_TIMESTEPS = 10**6


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
        """Refuses betas outside (0, 1), and a number of them that is out of range.

        Raises:
          ValueError: naming the first bad field, its value and what is accepted.
        """
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
        raise ValueError(f"{field}={getattr(config, field)!r}: must be {rule}")
