"""Fashion-MNIST, 28x28 grey.

progdist train runs/fashion_mnist --config=fashion_mnist

Data: Debian's package dataset-fashion-mnist, or --config.data.dir with the idx files.
Hardware and time: two cores of a virtual machine (AMD EPYC), shared with other
  work, 76 minutes.
Expected (measured there, FD-pixels of 2,048 samples): the teacher 8.65 in 64 steps,
  the students 9.91, 11, 12.2 in 4, 2, 1; the teacher's DDIM 82.8, 156, 240.
"""

import dataclasses

from progdist.config import Config, Data, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("digits")
    config.data = Data(name="fashion_mnist", image_shape=(28, 28, 1))
    # 7x7 patches of 4x4 pixels, so that two cores can train it.
    config.net = dataclasses.replace(
        config.net, ch=64, emb_ch=128, num_heads=4, patch_size=4
    )
    config.base.num_updates = 20_000
    config.distill.num_updates = 2500
    config.distill.long_rounds, config.distill.long_num_updates = 2, 5000
    return config
