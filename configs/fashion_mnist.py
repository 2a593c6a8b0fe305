"""Fashion-MNIST, 28x28 grey.

progdist train runs/fashion_mnist --config=fashion_mnist

Data: Debian's package dataset-fashion-mnist, or --config.data.dir with the idx files.
Hardware and time: one NVIDIA H100, shared with three other runs, 7 minutes. On two
  cores of a virtual machine (AMD EPYC) about 2 h 40 min and the evaluations, by the
  measured time of an update; fashion_mnist_quick takes half of that.
Expected (measured on the H100, FD-pixels of 2,048 samples; the floor of real images is
  4.53): the teacher 6.27 in 64 steps, the students 7.05, 7.60, 8.14 in 4, 2, 1;
  the teacher's DDIM 85.0, 157, 246.
"""

import dataclasses

from progdist.config import Config, Data, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("digits")
    config.data = Data(name="fashion_mnist", image_shape=(28, 28, 1))
    config.net = dataclasses.replace(
        config.net, ch=48, emb_ch=128, ch_mult=(1, 2), num_heads=4, patch_size=2
    )
    config.base.num_updates = 11_000
    config.distill.num_updates = 1000
    config.distill.long_rounds, config.distill.long_num_updates = 2, 2000
    return config
