"""Closed sets of the data's settings; imports no reader."""

from typing import Literal

Name = Literal["digits", "mnist", "fashion_mnist", "folder", "arrays", "tfds", "random"]
LabelRule = Literal["auto", "folders", "none"]
ImageShape = tuple[int, int, int]  # height, width, channels
