"""The library example runs as printed and does what it says."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "progdist" / "diffusion" / "README.md"


@pytest.fixture(scope="module")
def example() -> str:
    """The Python block of the page of `progdist.diffusion`."""
    section = re.search(
        r"^```python\n(.*?)^```$",
        README.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert section, f"{README} has no Python block"
    return section[1]


def test_the_example_distils_two_steps_into_one(example):
    names = {"__name__": "example"}
    exec(compile(example, str(README), "exec"), names)
    images, reference = np.asarray(names["images"]), np.asarray(names["reference"])
    assert images.shape == reference.shape == (16, 1)
    # The teacher's first prediction is all but 0, so z_mid = z_1 / sqrt(2) and its
    # second is tanh(alpha z_mid / sigma²) = tanh(z_1).
    np.testing.assert_allclose(reference, np.tanh(names["z_1"]), atol=1e-3)
    assert np.abs(images - reference).max() < 1e-3


def test_the_example_imports_the_library_alone(example):
    imported = set()
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    allowed = ("jax", "optax", "progdist.diffusion")
    assert all(name.startswith(allowed) for name in imported), imported
