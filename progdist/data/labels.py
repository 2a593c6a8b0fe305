"""Labels of a folder of images: from dataset.json, or from its directories.

dataset.json, as of StyleGAN and EDM, holds {"labels": [["00000/img0.png", 6], …]} with
the name and the class of each image, or {"labels": null}. Without it, if every image
lies in a directory of its class, CLASS/NAME, the directories are the classes, in the
natural order of their names: "2" before "10". Directories called 00000, 00001 and so on
are chunks, not classes.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from progdist.config.settings import LabelRule
from progdist.data.images import ImageError
from progdist.data.listing import Files, printable
from progdist.data.source import MAX_CLASSES, DataError, numbered_classes

FILE = "dataset.json"
_CHUNK = r"[0-9]{5,}"
_FORMAT = '{"labels": [[NAME, CLASS], …]} or {"labels": null}'


class Labels(NamedTuple):
    """Labels of the images of a folder.

    Attributes:
      labels: class of each image; 0 without classes.
      class_names: names of the classes, by label; empty without classes.
      reason: why there are no classes.
    """

    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    reason: str = ""


def read_labels(files: Files, names: Sequence[bytes], rule: LabelRule) -> Labels:
    """Returns the labels of images.

    Args:
      files: the folder.
      names: names of all its images.
      rule: "auto" as above; "folders" requires an image's directory to be its class;
        "none" ignores all labels.

    Raises:
      DataError: if dataset.json is malformed or does not fit the images, or an image is
        in no class under the rule "folders".
    """
    entries = files.entries()
    if rule == "none":
        return _none(names, "data.labels='none'")
    if rule == "auto" and FILE in entries:
        return _from_file(files, names)
    classes = sorted((name for name, is_dir in entries.items() if is_dir), key=natural)
    stray = next((name for name in names if name.count(b"/") != 1), None)
    if stray is not None:
        reason = f"{printable(stray)} is not in a directory of its class"
        if rule == "folders":
            raise DataError(f"{files.where}: {reason}, as data.labels='folders' needs")
        return _none(names, reason)
    if rule == "auto" and _are_chunks(classes):
        chunk = printable(classes[0])
        return _none(names, f"{chunk} is a chunk, unless data.labels='folders'")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers[os.fsdecode(name.partition(b"/")[0])] for name in names]
    return Labels(np.array(labels, np.int32), tuple(classes))


def natural(name: str) -> list[Any]:
    """Returns a sort key for the natural order of names: "2" before "10"."""
    parts = re.split("([0-9]+)", name)
    numbers = [part.lstrip("0") for part in parts[1::2]]
    parts[1::2] = [(len(number), number) for number in numbers]  # pyright: ignore
    return [parts, name]


def _from_file(files: Files, names: Sequence[bytes]) -> Labels:
    """Returns the labels of dataset.json, once it fits the images."""
    where = f"{files.where}/{FILE}"
    entries = _read_entries(files, where)
    if entries is None:
        return _none(names, f"{where} holds none")
    numbers: dict[str, int] = {}
    for entry in entries:
        name, number = _checked(entry, where)
        if name in numbers:
            raise DataError(f"{where}: names {printable(name)} twice")
        numbers[name] = number
    texts = [os.fsdecode(name) for name in names]
    unlabelled = next((name for name in texts if name not in numbers), None)
    if unlabelled is not None:
        raise DataError(f"{where}: lacks the image {printable(unlabelled)}")
    if len(numbers) > len(texts):
        unknown = printable(min(numbers.keys() - set(texts)))
        raise DataError(f"{where}: names {unknown}, which is not among the images")
    labels = np.array([numbers[name] for name in texts], np.int32)
    return Labels(labels, numbered_classes(int(labels.max()) + 1))


def _read_entries(files: Files, where: str) -> list[Any] | None:
    try:
        content = json.loads(files.read(FILE.encode()))
    except (ImageError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON that can be read ({error})") from None
    entries = content.get("labels", "") if isinstance(content, dict) else ""
    if entries is None or isinstance(entries, list):
        return entries
    raise DataError(
        f"{where}: must be {_FORMAT}; data.labels='folders' or 'none' ignores it"
    )


def _checked(entry: Any, where: str) -> tuple[str, int]:
    """Returns name and class of an entry of dataset.json."""
    if isinstance(entry, list) and list(map(type, entry)) == [str, int]:
        name, number = entry
        if 0 <= number < MAX_CLASSES:
            return name, number
    found = printable(f"{entry!r:.80}")
    raise DataError(
        f"{where}: {found} is not [NAME, CLASS] with a whole CLASS from 0 to "
        f"{MAX_CLASSES - 1}"
    )


def _are_chunks(names: Sequence[str]) -> bool:
    """Whether directories only divide the images into parts of a bounded size."""
    same_length = len(set(map(len, names))) == 1
    return same_length and all(re.fullmatch(_CHUNK, name) for name in names)


def _none(names: Sequence[bytes], reason: str) -> Labels:
    return Labels(np.zeros(len(names), np.int32), (), reason)
