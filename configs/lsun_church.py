"""LSUN churches at 128x128, unconditional: the published values.

progdist train runs/lsun_church --config=lsun_church

Like lsun_bedroom except for the data; prepare once with
  progdist prepare lsun/church_outdoor --image_size=128
  --dir=DIR                                                        (--config.data.dir).
"""

from progdist.config import Config, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("lsun_bedroom")
    config.data.tfds_name = "lsun/church_outdoor"
    return config
