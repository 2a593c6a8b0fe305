"""Parameters by rule for networks of guided-diffusion, by their names there."""

import zlib

import numpy as np


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the rule in golden/README.md gives a parameter."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith(".bias"):
        return (0.1 * draw).astype(np.float32)
    if len(shape) == 1:
        return (1 + 0.1 * draw).astype(np.float32)
    num_inputs = 1 if name.startswith("label_emb") else np.prod(shape[1:])
    return (draw / np.sqrt(num_inputs)).astype(np.float32)


def parameters(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The values of all parameters."""
    return {name: parameter(name, tuple(shape)) for name, shape in shapes.items()}
