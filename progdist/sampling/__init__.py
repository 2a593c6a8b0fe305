"""Drawing images from a model: cards, samplers, and the five-line interface.

`pretrained.load` opens a model wherever it lies; `draw` compiles its sampler, with one
random key per image; `cards` describe a model, so that it draws by itself; `output`
writes the images.
"""
