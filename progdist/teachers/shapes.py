"""Shapes of a file's parameters, from which the settings of its network follow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from progdist.checkpoint import CheckpointError


class Shapes:
    """Shapes of a file's parameters; a missing one is refused by its name.

    Attributes:
      path: the file, for messages.
      kind: kind of network that is expected, for messages.
      shapes: shape of each parameter.
    """

    def __init__(self, path: Path, kind: str, arrays: Mapping[str, Any]) -> None:
        """Takes the arrays by their names."""
        self.path, self.kind = path, kind
        self.shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def __contains__(self, name: str) -> bool:
        """Whether the file has the parameter."""
        return name in self.shapes

    def of(self, name: str, num_axes: int) -> tuple[int, ...]:
        """Returns the shape of a parameter with this number of axes.

        Raises:
          CheckpointError: if there is no such parameter, or it has others.
        """
        shape = self.shapes.get(name)
        if shape is None:
            raise CheckpointError(
                f"{self.path}: is no network of {self.kind}: it lacks {name}"
            )
        if len(shape) != num_axes:
            raise CheckpointError(
                f"{self.path}: {name} has shape {shape}, of {len(shape)} axes in place "
                f"of {num_axes}"
            )
        return shape

    def count(self, pattern: str) -> int:
        """Returns how many of the names with numbers from 0 in place of {} exist."""
        number = 0
        while pattern.format(number) in self.shapes:
            number += 1
        return number
