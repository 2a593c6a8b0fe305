"""Fashion-MNIST, a smaller network on patches of 4x4 pixels.

progdist train runs/fashion_mnist_quick --config=fashion_mnist_quick

Data: as fashion_mnist.
Hardware and time: two cores of a virtual machine (AMD EPYC), shared with other
  work, 76 minutes.
Expected (measured there, FD-pixels of 2,048 samples): the teacher 8.65 in 64 steps,
  the students 9.91, 11, 12.2 in 4, 2, 1; the teacher's DDIM 82.8, 156, 240.
"""

import dataclasses

from progdist.config import Config, load_preset


def get_config() -> Config:
    """Returns the configuration."""
    config = load_preset("fashion_mnist")
    # 7x7 patches: few positions, but their edges show in the samples.
    config.net = dataclasses.replace(config.net, ch=64, ch_mult=(1,), patch_size=4)
    config.base.num_updates = 20_000
    config.distill.num_updates = 2500
    config.distill.long_num_updates = 5000
    return config
