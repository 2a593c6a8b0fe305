"""Python functions as teachers: "package.module:function" of a configuration.

The function takes no argument and returns denoise(z, logsnr, conditioning), which
returns x̂ or a `Prediction` of `progdist.diffusion.prediction`. Its module is imported,
and so executed: only what a user has typed may be imported, never what a file names.
"""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn

from progdist.config import ConfigError
from progdist.diffusion.prediction import Prediction
from progdist.model import Model

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
        sys.path.insert(0, str(Path.cwd()))
    try:
        denoise = getattr(importlib.import_module(module), function)()
    except Exception as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"config.teacher={name}: failed with {reason}") from error
    if not callable(denoise):
        raise ConfigError(
            f"config.teacher={name}: returns a {type(denoise).__name__}; must return "
            "denoise(z, logsnr, conditioning)"
        )
    return student._replace(net=_Net(denoise), parameterization="x", num_classes=0)


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
