"""Python functions as teachers: "package.module:function" of a configuration.

The function takes no argument and returns denoise(z, logsnr, conditioning), which
returns x̂ or a `Prediction` of `progdist.diffusion.prediction`. Its module is imported,
and so executed: only what a user has typed may be imported, never what a file names.
"""

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from progdist.config import ConfigError
from progdist.diffusion.prediction import Prediction
from progdist.model import Model
from progdist.nets.conditioning import Conditioning

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function(name: str) -> bool:
    """Whether a teacher is named as "package.module:function"."""
    return bool(_NAME.fullmatch(name))


def model_of(name: str, student: Model) -> Model:
    """Imports a function and returns the model that it makes, which has no parameters.

    Args:
      name: "package.module:function"; the current directory is searched too.
      student: model with the image shape and schedule of the run.

    Raises:
      ConfigError: if it cannot be imported, or returns no function.
    """
    module, _, function = name.partition(":")
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    with _explained(name):
        denoise = getattr(importlib.import_module(module), function)()
    if not callable(denoise):
        raise ConfigError(
            f"config.teacher={name}: returns a {type(denoise).__name__}; must return "
            "denoise(z, logsnr, conditioning)"
        )
    # A function can be hashed, which another callable may refuse.
    net = _Net(lambda *args: denoise(*args))
    _check(name, net, student)
    return student._replace(net=net, parameterization="x", num_classes=0)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns an error of a user's module into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"config.teacher={name}: failed with {reason}") from error


def _check(name: str, net: nn.Module, student: Model) -> None:
    """Refuses a denoiser whose x̂ has another shape or dtype than z."""
    z = jax.ShapeDtypeStruct((2, *student.image_shape), jnp.float32)
    logsnr = jax.ShapeDtypeStruct((2,), jnp.float32)
    conditioning = Conditioning(jnp.zeros(2, jnp.int32))
    with _explained(name):
        x = jax.eval_shape(
            lambda *inputs: net.apply({}, *inputs, conditioning), z, logsnr
        )
    kind = f"{getattr(x, 'dtype', type(x).__name__)}{list(getattr(x, 'shape', []))}"
    if kind != f"float32{list(z.shape)}":
        raise ConfigError(
            f"config.teacher={name}: its denoise returns {kind} for z of "
            f"float32{list(z.shape)}; must be x̂ of that shape"
        )


class _Net(nn.Module):
    """A denoiser as a network without parameters, which puts out x̂."""

    denoise: Callable[..., Any]

    @nn.compact
    def __call__(
        self, z: Any, logsnr: Any, conditioning: Any = None, dropout: Any = None
    ) -> Any:
        """Returns x̂."""
        result = self.denoise(z, logsnr, conditioning)
        return result.x if isinstance(result, Prediction) else result
