"""Draws images from a finished round of a run, or from a model.

  progdist sample runs/digits --steps=4 --out=grid.png
  progdist sample runs/pets --steps=4 --label=cat,dog --out=pets.png
  progdist sample exported/digits4 --num=50000 --out=images/
  progdist sample hf://OWNER/NAME --out=noise_to_image.gif

The model is a workdir, a directory of its models/, an exported folder, or
hf://OWNER/NAME.

--out is a picture of all images (.png, .jpg, .webp and others), an animation of them
from noise to image (.gif), all images as an array (.npz: uint8 `arr_0`, and `labels`),
or a directory (with a trailing /) that gets one PNG per image, for tools such as
pytorch-fid. A directory also gets request.json and, with classes, dataset.json; a
command that was interrupted continues there, as does one for more images.

Image i depends only on the seed and on i. With n labels, image i has label number
i mod n, and a picture has a named row for each. Files record the seed, N and a digest
of the model.

Exit codes: 0 done; 2 bad input, in one line; 3 non-finite images; 4 something
could not be written; 128 + n stopped by signal n.
"""

from progdist.commands.parser import Flags
from progdist.diffusion.settings import Clip, SolverName
from progdist.nets.types import MatmulPrecision
from progdist.plan import MOST_STEPS


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("workdir")
    flags.text("workdir", "Run or model to draw from.")
    flags.number(
        "num_steps",
        "Network calls per image, which select the round of a run; may be omitted if "
        "there is only one model. Also --steps.",
        low=1,
        high=MOST_STEPS,
    )
    flags.number(
        "num",
        "Number of images; by default 64, or 8 per label if several are given.",
        low=1,
        high=10**9,
    )
    flags.texts("label", "Classes to draw, by name or number; by default all in turn.")
    flags.number("seed", "Random seed of the initial noise.", 0, high=2**32 - 1)
    flags.text("out", "Output: grid.png, steps.gif, all.npz or images/.", "samples.png")
    flags.choice("sampler", "Sampler.", SolverName, "ddim")
    flags.real(
        "gamma", "Noise level of the ancestral sampler, 0 to 1.", 0.3, low=0.0, high=1.0
    )
    about = "Clipping of x̂ in ddim and ancestral: recompute eps from it, keep eps as"
    about += " diffusers does, or none."
    flags.choice("clip", about, Clip, "recompute")
    about = "Precision of the network's products; by default the model's."
    flags.choice("precision", about, MatmulPrecision)
    flags.number("batch_size", "Number of images computed together.", 64, low=1)
    flags.switch("teacher", "Draw from the undistilled teacher of a run.")
    flags.switch("overwrite", "Replace the images in a directory.")
    return flags


def main(argv: list[str]) -> None:
    """Draws the images that the command line describes."""
    values = define_flags().parse(argv, __doc__, "workdir", "out")

    from progdist.commands import devices, images
    from progdist.sampling.pretrained import load

    out = images.check_path(values["out"])
    devices.prepare_for_sampling(values["batch_size"])
    options = {name: values[name] for name in ("teacher", "precision")}
    model = load(values["workdir"], values["num_steps"], **options)
    fields = "seed", "sampler", "gamma", "batch_size", "clip"
    request = images.Request(
        num=values["num"] or _default_num(len(values["label"])),
        labels=tuple(model.labels(values["label"] or None)),
        **{name: values[name] for name in fields},
    )
    images.write(model, request, out, values["overwrite"])
    drawn = f"{request.num:,} image{'s'[: request.num != 1]}"
    steps = f"{model.num_steps:,} step{'s'[: model.num_steps != 1]}"
    print(f"{drawn} in {steps}: {out}")


def _default_num(num_labels: int) -> int:
    return 8 * num_labels if num_labels > 1 else 64
