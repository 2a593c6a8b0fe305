"""Presets, which come with the package, and configuration files of users.

A configuration file defines `get_config`, which returns a `Config`. If it takes an
argument, that is what follows the colon in `--config=NAME:VARIANT`; without a colon it
is the default, or "". Otherwise the one variant is `smoke`.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from progdist.config.settings import Config, ConfigError, Data, Evaluation, Training
from progdist.errors import Error, did_you_mean, last_line

_SMOKE_UPDATES, _SMOKE_BATCH = 10, 16
_SMOKE_PIXELS = 16


def preset_names() -> list[str]:
    """Returns the names of the presets."""
    return sorted(path.stem for path in _directory().glob("*.py"))


def load_preset(name: str, variant: str = "") -> Config:
    """Returns the configuration of a preset.

    Args:
      name: "digits", for example.
      variant: "smoke" for the same run at a small size; other presets may have others.

    Raises:
      ConfigError: if there is no such preset or variant.
    """
    if name not in preset_names():
        raise ConfigError(f"{name!r}: is not a preset; {_instead_of(name)}")
    return _load(_directory() / f"{name}.py", variant, name)


def load_config(text: str) -> Config:
    """Returns the configuration that --config names.

    Args:
      text: NAME or NAME:VARIANT of a preset, or a path PATH.py or PATH.py:VARIANT.

    Raises:
      ConfigError: if there is none, or its file fails.
    """
    name, _, variant = text.partition(":")
    if name in preset_names():
        return load_preset(name, variant)
    match = re.fullmatch(r"(.+?\.py)(?::(.*))?", text)
    if not match:
        raise ConfigError(f"--config={text}: is not a preset; {_instead_of(name)}")
    path = Path(match[1])
    if not path.is_file():
        hint = f"; --config={path.stem} is a preset" * (path.stem in preset_names())
        raise ConfigError(f"--config={text}: no such file{hint}")
    return _load(path, match[2] or "", str(path))


def summary(name: str) -> str:
    """Returns the first line of a preset's documentation."""
    source = (_directory() / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def smoke(config: Config) -> Config:
    """Returns the same run at a small size, for a first test of a machine.

    Synthetic images of at most 16x16, a narrow network of two levels, few updates and
    rounds. Most of its time is compilation. It shows that the code runs, but says
    nothing about quality.
    """
    made = config.data.name != "digits"
    height, width, channels = config.data.image_shape
    small = min(height, _SMOKE_PIXELS), min(width, _SMOKE_PIXELS), channels
    return dataclasses.replace(
        config,
        data=Data(name="random", image_shape=small, flip=config.data.flip)
        if made
        else config.data,
        net=config.net.smoke(small),
        base=dataclasses.replace(config.base, **_few_updates(config.base)),
        distill=dataclasses.replace(
            config.distill,
            **_few_updates(config.distill),
            start_steps=4,
            long_rounds=1,
            long_num_updates=_SMOKE_UPDATES,
        ),
        evaluation=Evaluation(num_samples=32, batch_size=32, grid_images=10),
        log_every=5,
        save_every=5,
    )


def _few_updates(training: Training) -> dict[str, int]:
    """Returns the fields of a short training, with parts if it has parts."""
    return {
        "num_updates": _SMOKE_UPDATES,
        "batch_size": _SMOKE_BATCH,
        "clip_groups": min(training.clip_groups, 2),
        "micro_batch_size": min(training.micro_batch_size, _SMOKE_BATCH // 2),
    }


def _directory() -> Path:
    """Returns the directory of the presets, in an installed package or a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _load(path: Path, variant: str, where: str) -> Config:
    try:
        get_config = getattr(_module(path), "get_config", None)
        if get_config is None:
            raise ConfigError(f"--config={where}: does not define get_config")
        config = _call(get_config, variant, where)
    except Error:
        raise
    except (Exception, SystemExit) as error:  # the file is a program
        reason = f"{type(error).__name__}: {last_line(error)}"
        raise ConfigError(f"--config={where}: {reason}") from None
    if not isinstance(config, Config):
        raise ConfigError(
            f"--config={where}: get_config must return a progdist.config.Config"
        )
    return config


def _module(path: Path) -> Any:
    """Returns the module of a file, which is not found by other imports."""
    spec: Any = importlib.util.spec_from_file_location(
        f"progdist_config_{path.stem}", path
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for postponed types
    spec.loader.exec_module(module)
    return module


def _call(get_config: Any, variant: str, where: str) -> Any:
    parameters = inspect.signature(get_config).parameters.values()
    if parameters:
        has_default = all(p.default is not p.empty for p in parameters)
        return get_config(*[variant] * (not has_default or variant != ""))
    if variant not in ("", "smoke"):
        raise ConfigError(
            f"--config={where}:{variant}: the only variant is {where}:smoke"
        )
    return smoke(get_config()) if variant else get_config()


def _instead_of(name: str) -> str:
    names = preset_names()
    return f"presets are {', '.join(names)}, and files end in .py" + (
        did_you_mean(name, names)
    )
