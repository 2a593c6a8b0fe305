"""Closed sets of the data's settings; imports no reader."""

from typing import Literal

Name = Literal["digits", "mnist", "fashion_mnist", "folder", "tfds", "random"]
FOLDER_SPLITS = ("train", "test", "val", "validation")
ImageShape = tuple[int, int, int]  # height, width, channels
