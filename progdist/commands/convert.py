"""Turns a model of another library into one of progdist.

  progdist convert ddpm-cifar10-32 --out=teachers/ddpm
  progdist convert hf://google/ddpm-cifar10-32 --out=teachers/ddpm
  progdist convert unet/ --betas=linear --output=eps --out=teachers/unet
  progdist convert 64x64_diffusion.pt --out=teachers/imagenet64
  progdist convert model.pt --out=teachers/own --betas=linear --head_dim=64
    --attention_order=legacy --image_size=64

SOURCE is one of
  a folder of diffusers with a UNet2DModel: a pipeline, or the network alone
  hf://OWNER/NAME[@REVISION], such a folder on the Hugging Face Hub
  a .pt or .pth file of guided-diffusion, improved-diffusion or consistency_models
  a flax checkpoint released with the paper
  a model of progdist: a directory of models/, an export, or hf://OWNER/NAME
The result is a model directory, which progdist sample, progdist export and
--config.teacher take. It appears complete or not at all. Nothing in the source is
executed. A fact that the source lacks is asked for by the name of its flag.

Exit codes: 0 done; 2 bad input, in one line; 4 the model could not be written.
"""

from progdist.commands.parser import Flags
from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.nets.guided_settings import AttentionOrder, Precondition
from progdist.nets.types import MOST_CHANNELS, MOST_PIXELS, BetaRule
from progdist.workdir import files


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("source")
    flags.text("source", "Model to convert: a file, a folder or hf://OWNER/NAME.")
    flags.text("out", "Directory to create.")
    about = "Meaning of the network's output; overrides a scheduler of diffusers."
    flags.choice("output", about, Parameterization)
    about = "Rule of the betas of a .pt file; overrides a scheduler of diffusers."
    flags.choice("betas", about, BetaRule)
    about = "Preconditioning of a file of consistency_models."
    flags.choice("precondition", about, Precondition)
    most: dict[str, int] = {"low": 1, "high": MOST_CHANNELS}
    flags.number("num_heads", "Number of attention heads of a .pt file.", **most)
    flags.number("head_dim", "Channels per attention head of a .pt file.", **most)
    about = "Order of q, k and v in a file of guided-diffusion or improved-diffusion."
    flags.choice("attention_order", about, AttentionOrder)
    about = "Height and width of the images, of .pt and released files."
    flags.number("image_size", about, low=1, high=MOST_PIXELS)
    about = "Number of noise levels of a .pt file; by default 1000."
    flags.number("num_timesteps", about, low=1)
    about = "Whether a .pt file's network saw its timesteps in a range of 1000."
    flags.switch("rescale_timesteps", about, None)
    return flags


def main(argv: list[str]) -> None:
    """Converts the model that the command line names."""
    values = define_flags().parse(argv, __doc__, "source", "out")
    out = files.expand(values["out"])
    if out.exists():
        raise UsageError(f"--out={out}: already exists")

    from progdist import teachers
    from progdist.commands import devices

    devices.prepare_for_sampling(1)
    facts = {name: values[name] for name in teachers.Options._fields}
    teacher = teachers.read_teacher(values["source"], teachers.Options(**facts))
    teachers.convert(teacher, out, values["source"])
    print(out)
