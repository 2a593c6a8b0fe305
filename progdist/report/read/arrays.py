"""Arrays in the npz files that a run writes."""

from pathlib import Path

import numpy as np

from progdist.workdir.files import FormatError


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an npz file.

    Raises:
      FormatError: if it is not a complete npz file; names the file.
    """
    try:
        # Opened here, since np.load does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file) as arrays:
            content = dict(arrays)
    except Exception as error:  # zipfile, zlib and NumPy raise almost anything
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise FormatError(f"{path}: not a whole npz file: {why}") from None
    for name, array in content.items():
        if not isinstance(array, np.ndarray):  # any other file in the archive
            raise FormatError(f"{path}: {name} is not an array")
    return content


def check_array(
    array: np.ndarray, kind: type[np.generic], axes: str, name: str, path: Path
) -> None:
    """Checks that an array is not empty and has the right kind and axes.

    Args:
      array: the array.
      kind: scalar type of its numbers.
      axes: names of its axes, such as "n h w c"; c must be 1 or 3.
      name: name of the array, for the message.
      path: path of its file, for the message.

    Raises:
      FormatError: with the actual and the accepted kind and shape.
    """
    if (
        not np.issubdtype(array.dtype, kind)
        or array.ndim != len(axes.split())
        or not array.size
        or (axes.endswith("c") and array.shape[-1] not in (1, 3))
    ):
        actual = f"{array.dtype!s:.40} {shape_text(array.shape)}"
        accepted = f"{kind.__name__} ({axes})" if axes else f"one {kind.__name__}"
        raise FormatError(f"{path}: {name} is {actual}, not {accepted}")


def shape_text(shape: tuple[int, ...]) -> str:
    """Returns the shape as "(3, 4)"."""
    return f"({', '.join(map(str, shape))})"
