"""ImageNet at 64x64, class-conditional: the published values.

progdist train runs/imagenet64 --config=imagenet64

Data (--config.data.dir=DIR): labelled images of 64x64; prepare once with
  progdist prepare imagenet2012 --image_size=64 --dir=DIR
  from the two archives of ImageNet in DIR/downloads/manual.
Work: 550k updates of batch 2048 and 10 rounds of 50k, the last two 100k, on 295.9M
  parameters. Not yet run at full size; :smoke is, on synthetic images.
Expected FID, read off the published figure: 16.08, 7.36, 3.88, 2.95 in 1, 2, 4, 8
  steps. The run itself reports FD-pixels; for the FID:
  progdist evaluate runs/imagenet64 --protocol=published
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
        data=Data(
            name="tfds", tfds_name="imagenet2012", image_shape=(64, 64, 3), flip=True
        ),
        parameterization="both",
        net=UNetConfig(
            ch=192,
            emb_ch=768,
            ch_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attn_resolutions=(8, 16, 32),
            head_dim=64,
            num_groups=32,
            num_classes=1000,
        ),
        base=Training(
            num_updates=550_000,
            batch_size=2048,
            learning_rate=3e-4,
            warmup_updates=1000,
            clip_groups=8,
            times="independent",
            ema_decay=0.9999,
            dropout=0.1,
        ),
        distill=Distillation(
            num_updates=50_000,
            batch_size=2048,
            learning_rate=1e-4,
            clip_groups=8,
            times="independent",
            start_steps=1024,
            long_rounds=2,
            long_num_updates=100_000,
        ),
        evaluation=Evaluation(
            num_samples=50_000,
            reference_images=0,
            batch_size=512,
            max_steps=64,
            baselines=("ddim",),
            grid_images=64,
        ),
        # 1024 steps are too fine for products of bfloat16, a TPU's default.
        precision=Precision(training="high", target="high"),
        save_every=5000,
    )
