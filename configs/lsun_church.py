"""LSUN churches at 128x128, unconditional: the published values.

progdist train runs/lsun_church --config=lsun_church

Like lsun_bedroom except for the data (--config.data.dir=DIR); prepare once with
  progdist prepare lsun/church_outdoor --image_size=128 --dir=DIR
"""

from progdist.config import Config, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("lsun_bedroom")
    config.data.tfds_name = "lsun/church_outdoor"
    return config
