"""Progressive distillation of diffusion models for few-step sampling, in JAX.

import progdist

model = progdist.load("runs/digits", steps=4)
images = model.sample(16, seed=0)  # uint8 [16, h, w, c]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from progdist.nets.conditioning import Conditioning as Conditioning
    from progdist.sampling.pretrained import Pretrained as Pretrained, load as load

__all__ = ["Conditioning", "Pretrained", "load"]


def __getattr__(name: str) -> Any:
    """Loads what needs JAX, or reads the version, when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("progdist")
    if name in __all__:
        from progdist.sampling import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module 'progdist' has no attribute {name!r}")
