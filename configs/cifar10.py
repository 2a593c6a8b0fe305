"""CIFAR-10, 32x32 colour, unconditional: the published values.

progdist train runs/cifar10 --config=cifar10

Data: cifar-10-binary.tar.gz, 170 MB, downloaded once; --config.data.dir=FILE names
  a copy of it.
Work: 800k updates of the teacher and 13 rounds of 50k (the last two 100k),
  on 60.0M parameters. Not yet run at full size;
  :smoke is, on synthetic images.
Expected FID, as published: 9.12, 4.51, 3.00, 2.57 in 1, 2, 4, 8 steps. The run itself
  reports FD-pixels; for the FID: progdist evaluate runs/cifar10 --protocol=published
"""

from progdist.config import (
    Config,
    Data,
    Distillation,
    Evaluation,
    Precision,
    Training,
)
from progdist.nets.settings import UNetConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        data=Data(name="cifar10", image_shape=(32, 32, 3), flip=True),
        parameterization="x",
        net=UNetConfig(
            ch=256,
            emb_ch=1024,
            ch_mult=(1, 1, 1),
            num_res_blocks=3,
            attn_resolutions=(8, 16),
            num_heads=1,
            num_groups=32,
        ),
        base=Training(
            num_updates=800_000,
            batch_size=128,
            learning_rate=2e-4,
            warmup_updates=1000,
            clip_groups=8,
            times="independent",
            weight_decay=1e-3,
            ema_decay=0.9999,
            dropout=0.2,
        ),
        distill=Distillation(
            num_updates=50_000,
            batch_size=128,
            learning_rate=5e-5,
            clip_groups=8,
            times="independent",
            start_steps=8192,
            long_rounds=2,
            long_num_updates=100_000,
        ),
        evaluation=Evaluation(
            num_samples=50_000,
            batch_size=512,
            max_steps=64,
            baselines=("ddim",),
            grid_images=64,
        ),
        # 8192 steps are too fine for products of bfloat16, a TPU's default.
        precision=Precision(training="high", target="high"),
        save_every=5000,
    )
