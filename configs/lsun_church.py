"""LSUN churches at 128x128, unconditional: the published values.

python -m progdist.main --config=configs/lsun_church.py --workdir=runs/lsun_church

Like lsun_bedroom except for the data; prepare once with
  python -m progdist.data.prepare --tfds_name=lsun/church_outdoor --image_size=128
  --dir=DIR                                                        (--config.data.dir).
"""

from configs import lsun_bedroom
from configs.variants import select
from progdist.config import Config


def get_config(variant: str | None = None) -> Config:
    """Returns the configuration; the variant is "" or "smoke"."""
    config = lsun_bedroom.get_config()
    config.data.tfds_name = "lsun/church_outdoor"
    return select(config, variant)
