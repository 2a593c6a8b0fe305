"""LSUN bedrooms at 128x128, unconditional: the published values.

progdist train runs/lsun_bedroom --config=lsun_bedroom

Data (--config.data.dir=DIR): prepare once with
  progdist prepare lsun/bedroom --image_size=128 --dir=DIR
Work: 400k updates of batch 2048 and 10 rounds of 50k, the last two 100k, on 139.6M
  parameters. Not yet run at full size; :smoke is, on synthetic images.
Expected: the paper shows its FID only as a curve.
"""

import dataclasses

from progdist.config import Config, Data, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("imagenet64")
    config.data = Data(
        name="tfds", tfds_name="lsun/bedroom", image_shape=(128, 128, 3), flip=True
    )
    config.net = dataclasses.replace(
        config.net, ch=64, ch_mult=(1, 2, 4, 6, 8), num_classes=0
    )
    config.base.num_updates = 400_000
    return config
