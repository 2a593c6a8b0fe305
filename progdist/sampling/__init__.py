"""Drawing images from a model: cards, samplers, and the five-line interface.

`pretrained.load` opens a model wherever it lies; `cards` hold everything needed to draw
from it; `draw` compiles its sampler, with one random key per image.
"""
