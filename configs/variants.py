"""The variants of a configuration: --config=configs/NAME.py:VARIANT."""

import dataclasses

from progdist.config import Config, ConfigError, Data, Evaluation

_SMOKE_UPDATES, _SMOKE_BATCH = 10, 16
_SMOKE_PIXELS = 16


def select(config: Config, variant: str | None) -> Config:
    """Returns the configuration, or its variant.

    "smoke" is the same run at a small size: synthetic images of at most 16x16, a narrow
    network of two levels, few updates and rounds. Most of its time is compilation. It
    shows that the code runs, but says nothing about quality.

    Raises:
      ConfigError: if there is no such variant.
    """
    match variant:
        case None | "":
            return config
        case "smoke":
            return _smoke(config)
    raise ConfigError(f"--config: variant {variant!r} is not one of smoke")


def _smoke(config: Config) -> Config:
    made = config.data.name != "digits"
    height, width, channels = config.data.image_shape
    small = min(height, _SMOKE_PIXELS), min(width, _SMOKE_PIXELS), channels
    few = {"num_updates": _SMOKE_UPDATES, "batch_size": _SMOKE_BATCH}
    return dataclasses.replace(
        config,
        data=Data(name="random", image_shape=small, flip=config.data.flip)
        if made
        else config.data,
        net=config.net.smoke(small),
        base=dataclasses.replace(config.base, **few),
        distill=dataclasses.replace(
            config.distill,
            **few,
            start_steps=4,
            long_rounds=1,
            long_num_updates=_SMOKE_UPDATES,
        ),
        evaluation=Evaluation(num_samples=32, batch_size=32, grid_images=10),
        log_every=5,
        save_every=5,
    )
