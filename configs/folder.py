"""Your own images, in a directory or zip: size and classes are found.

progdist train runs/mine --config=folder:DIR

folder:DIR:64 trains at 64x64; by default the side is that of the images, at most 32.
All that is found depends on the files alone: the same command resumes on any machine.

Time, estimated from single updates on two cores of a virtual machine (AMD EPYC): an
  hour at 16x16 to 32x32, a quarter of an hour at 8x8, six hours at 64x64.
"""

import os
from pathlib import Path

from progdist.config import (
    Config,
    ConfigError,
    Data,
    Distillation,
    Evaluation,
    Training,
)
from progdist.data import DataError, survey
from progdist.nets.settings import UNetConfig
from progdist.workdir.files import expand

_SIDES = range(8, 257, 4)
_MOST_SIDE = 32  # by default
_BATCH = 64


def get_config(directory: str | None = None) -> Config:
    """Returns a configuration for the images in a directory or zip archive.

    Args:
      directory: its path, or PATH:SIDE to choose height and width of the images.

    Raises:
      ConfigError: if there is no path, or no network for the side.
      DataError: if fewer than two images are found.
    """
    path, side = _parse(directory or "")
    found = survey.look(path)
    if found.num_images < 2:
        raise DataError(f"{found.where}: holds one image; training needs two or more")
    side = side or max(_SIDES[0], min(found.side, _MOST_SIDE) // 4 * 4)
    base, distill = _plan(found.num_images)
    num_samples = min(max(16, found.num_images), 2048)
    return Config(
        data=Data(
            name="folder",
            dir=str(path),
            image_shape=(side, side, 1 if found.is_grey else 3),
            background="white" if found.has_alpha else "",
        ),
        net=_fit(side, found.num_classes),
        base=base,
        distill=distill,
        evaluation=Evaluation(
            num_samples=num_samples,
            # A multiple of the training's, so that the same devices share it.
            batch_size=min(-(-num_samples // _BATCH) * _BATCH, 256),
        ),
        save_every=500,
    )


def _plan(num_images: int) -> tuple[Training, Distillation]:
    """Returns base training of 200 epochs, within bounds, and the rounds that follow.

    A batch of more than all images is no waste: each is seen at several noise levels.
    """
    updates = min(max(2000, 200 * num_images // _BATCH), 4000)
    rates = {"batch_size": _BATCH, "learning_rate": 1e-3}
    base = Training(
        num_updates=updates,
        warmup_updates=200,
        anneal="linear",
        ema_decay=0.999,
        **rates,
    )
    distill = Distillation(
        num_updates=updates // 8,
        start_steps=32,
        long_rounds=2,
        long_num_updates=updates // 4,
        **rates,
    )
    return base, distill


def _parse(text: str) -> tuple[Path, int]:
    """Returns the absolute path, and the side, or 0 if none is given."""
    if not text:
        raise ConfigError(
            "--config=folder: must be folder:DIR, a directory or zip archive of images"
        )
    path, _, side = text.rpartition(":")
    if not (path and side.isdecimal()) or os.path.exists(expand(text)):
        return expand(text).absolute(), 0
    if int(side) not in _SIDES:
        rule = f"a multiple of {_SIDES.step} from {_SIDES[0]} to {_SIDES[-1]}"
        raise ConfigError(f"--config=folder:{text}: the side {side} must be {rule}")
    return expand(path).absolute(), int(side)


def _fit(side: int, num_classes: int) -> UNetConfig:
    """Returns a network that halves its maps until their sides are at most 8."""
    patch_size = 1 if side <= 16 else 2
    heights = [side // patch_size]
    while heights[-1] % 2 == 0 and (heights[-1] > 8 or heights[1:] == []):
        heights.append(heights[-1] // 2)
    return UNetConfig(
        ch=32,
        emb_ch=128,
        ch_mult=tuple(min(2**level, 4) for level in range(len(heights))),
        num_res_blocks=1,
        attn_resolutions=tuple(height for height in heights if height <= 8),
        num_heads=4,
        num_classes=num_classes,
        patch_size=patch_size,
    )
