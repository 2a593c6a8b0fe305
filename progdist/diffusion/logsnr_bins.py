"""Log-SNR bins of the loss histogram.

Bins are centred on even numbers, so that a schedule's ends, ±20, and its middle, where
a student of two steps is, lie well inside one. The outer ones hold everything beyond.
"""

from collections.abc import Sequence

WIDTH = 2
CENTRES = tuple(map(float, range(-20, 21, WIDTH)))
EDGES = tuple(map(float, range(-21, 22, WIDTH)))  # one more than there are bins


def means(parts: Sequence[float], shares: Sequence[float]) -> list[float | None]:
    """Returns the mean loss in each bin, None where nothing fell into it.

    To six digits, as a row of a file has many of them.

    Args:
      parts: each bin's part in the mean loss of all.
      shares: its share of the examples, in the same unit.
    """
    return [
        float(f"{part / share:.6g}") if share else None
        for part, share in zip(parts, shares, strict=True)
    ]
