"""Digits of 8x8 pixels, which come with the package."""

from progdist.config import Config, ConfigError, Data, Distillation, Model, Training


def get_config(variant: str = "") -> Config:
    """Returns the configuration; the variant "smoke" takes seconds."""
    config = Config(
        data=Data(name="digits", image_shape=(8, 8, 1)),
        model=Model(
            output="v",
            ch=64,
            emb_ch=128,
            ch_mult=(1,),
            num_res_blocks=2,
            num_heads=4,
            patch_size=2,
        ),
        base=Training(
            num_updates=5000,
            batch_size=64,
            learning_rate=1e-3,
            warmup_updates=100,
            ema_decay=0.999,
        ),
        distill=Distillation(
            num_updates=1000, batch_size=64, learning_rate=1e-3, start_steps=64
        ),
    )
    if variant:
        raise ConfigError(f"variant {variant!r}: there is smoke")
    return config
