"""Facts of published files that their parameters do not show, by the files' names.

They are the flags that the READMEs of these repositories give:

- github.com/openai/guided-diffusion, and its parent, improved-diffusion;
- github.com/openai/consistency_models, scripts/launch.sh. Its attention takes all q,
  then all k, then all v, whatever its flags.
"""

from progdist.teachers.teacher import Options


def options_of(name: str) -> Options:
    """Returns the facts of a published file; none of those of any other."""
    return _PUBLISHED.get(name, Options())


def _guided(image_size: int, head_dim: int | None = 64) -> Options:
    return Options(
        betas="linear",
        head_dim=head_dim,
        num_heads=None if head_dim else 4,
        attention_order="legacy",
        image_size=image_size,
    )


def _improved(image_size: int, rescale_timesteps: bool = True) -> Options:
    return Options(
        betas="squaredcos_cap_v2",
        num_heads=4,
        attention_order="legacy",
        image_size=image_size,
        num_timesteps=4000,
        rescale_timesteps=rescale_timesteps,
    )


def _consistency() -> dict[str, Options]:
    edm = Options(precondition="edm", head_dim=64, attention_order="new")
    one_step = edm._replace(precondition="consistency")
    sizes = {"imagenet64": 64, "bedroom256": 256, "cat256": 256}
    models = {
        "edm_{}_ema.pt": edm,
        "cd_{}_l2.pt": one_step,
        "cd_{}_lpips.pt": one_step,
        "ct_{}.pt": one_step,
    }
    return {
        model.format(data): options._replace(image_size=size)
        for model, options in models.items()
        for data, size in sizes.items()
    }


_LSUN = ("bedroom", "cat", "horse", "horse_nodropout")
_IMPROVED_LSUN = _guided(256, head_dim=None)._replace(num_heads=1)
_PUBLISHED = {
    "64x64_diffusion.pt": _guided(64)._replace(
        betas="squaredcos_cap_v2", attention_order="new"
    ),
    "128x128_diffusion.pt": _guided(128, head_dim=None),
    "256x256_diffusion.pt": _guided(256),
    "256x256_diffusion_uncond.pt": _guided(256),
    "512x512_diffusion.pt": _guided(512),
    **{f"lsun_{name}.pt": _guided(256) for name in _LSUN},
    "imagenet64_uncond_100M_1500K.pt": _improved(64),
    "imagenet64_uncond_vlb_100M_1500K.pt": _improved(64),
    "imagenet64_cond_270M_250K.pt": _improved(64, rescale_timesteps=False),
    "cifar10_uncond_50M_500K.pt": _improved(32),
    "cifar10_uncond_vlb_50M_500K.pt": _improved(32),
    "lsun_uncond_100M_1200K_bs128.pt": _IMPROVED_LSUN,
    "lsun_uncond_100M_2400K_bs64.pt": _IMPROVED_LSUN,
    **_consistency(),
}
