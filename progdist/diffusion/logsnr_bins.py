"""Log-SNR bins of the loss histogram.

Bins are centred on even numbers, so that the ends of a schedule, ±20, and its middle,
which a two-step student sees, lie well inside a bin. The outer bins are open-ended.
"""

from collections.abc import Sequence

WIDTH = 2
CENTRES = tuple(map(float, range(-20, 21, WIDTH)))
EDGES = tuple(map(float, range(-21, 22, WIDTH)))  # one more than the bins


def means(parts: Sequence[float], shares: Sequence[float]) -> list[float | None]:
    """Returns the mean loss in each bin, None for an empty one.

    Values have six digits, to keep the rows of a file short.

    Args:
      parts: contribution of each bin to the mean loss.
      shares: share of the examples in each bin, in the same unit.
    """
    return [
        float(f"{part / share:.6g}") if share else None
        for part, share in zip(parts, shares, strict=True)
    ]
