"""Splits of a folder of images: its directories called train, validation and test.

The folder, or its splits, may be wrapped in one more directory, as archives often are.
"""

from progdist.data import labels
from progdist.data.listing import Files, is_image, printable
from progdist.data.source import DataError

NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def select_split(files: Files, split: str) -> Files:
    """Returns the files of a split; without splits, "train" is the whole folder.

    Args:
      files: the folder.
      split: any of the `NAMES`, in any case.

    Raises:
      DataError: if there is no such split, two directories are the same split, or
        other directories or images lie beside the splits.
    """
    files = _unwrapped(files)
    entries = files.entries()
    splits = _splits_among(entries)
    if splits:
        _check_alone(files.where, entries, splits)
    wanted = _split_of(split)
    chosen = [name for name in splits if wanted == _split_of(name)]
    if len(chosen) > 1:
        names = " and ".join(map(printable, chosen))
        raise DataError(f"{files.where}: {names} are one split; keep one of them")
    if chosen:
        return files.below(chosen[0])
    if wanted == "train" and not splits:
        return files
    there = ", ".join(map(printable, splits)) or "train, the whole folder"
    raise DataError(f"{files.where}: has no split {split!r}; it has {there}")


def _unwrapped(files: Files) -> Files:
    """Returns the one directory of a folder if it holds splits or a file of labels."""
    entries = files.entries()
    names = [n for n, is_dir in entries.items() if is_dir or _is_data(n)]
    if len(names) == 1 and entries[names[0]] and not _split_of(names[0]):
        inner = files.below(names[0])
        if labels.FILE in inner.entries() or _splits_among(inner.entries()):
            return inner
    return files


def _is_data(name: str) -> bool:
    return name == labels.FILE or is_image(name.encode(errors="replace"))


def _splits_among(entries: dict[str, bool]) -> list[str]:
    return [name for name, is_dir in entries.items() if is_dir and _split_of(name)]


def _split_of(name: str) -> str | None:
    """Returns the split that a name stands for; None for any other name."""
    for split, names in NAMES.items():
        if name.lower() in names:
            return split
    return None


def _check_alone(where: str, entries: dict[str, bool], splits: list[str]) -> None:
    for name, is_dir in entries.items():
        if name not in splits and (is_dir or _is_data(name)):
            raise DataError(
                f"{where}: {printable(name)} lies beside the splits "
                f"{', '.join(map(printable, splits))}; move it away"
            )
