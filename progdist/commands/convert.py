"""Turns a model of another library into one of progdist.

  progdist convert ddpm-cifar10-32 --out=teachers/ddpm
  progdist convert unet/ --betas=linear --output=eps --out=teachers/unet
  progdist convert 64x64_diffusion.pt --out=teachers/imagenet64
  progdist convert model.pt --out=teachers/own --betas=linear --head_dim=64
    --attention_order=legacy --image_size=64

SOURCE is a folder of diffusers with a UNet2DModel, or a model of progdist.
The result is a model directory like any other: progdist sample, evaluate, export and
--config.teacher take it. Nothing in the source is executed. A fact that the source does
not hold is asked for by the name of its flag.

Exit codes: 0 done; 2 bad input, in one line; 4 the model could not be written.
"""

from progdist.commands.parser import Flags
from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.nets.guided_settings import AttentionOrder, Precondition
from progdist.nets.settings import Betas
from progdist.workdir import files


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("source")
    flags.text("source", "Model to convert: a file or a folder.")
    flags.text("out", "Directory to create.")
    about = "Meaning of the network's output, if the source does not say."
    flags.choice("output", about, Parameterization)
    about = "Rule of the betas, if the source does not say."
    flags.choice("betas", about, Betas)
    flags.choice("precondition", "Preconditioning of a .pt file.", Precondition)
    flags.number("num_heads", "Number of attention heads of a .pt file.", low=1)
    flags.number("head_dim", "Channels per attention head of a .pt file.", low=1)
    about = "Order of q, k and v in a .pt file."
    flags.choice("attention_order", about, AttentionOrder)
    flags.number("image_size", "Height and width of the images.", low=1)
    flags.number("num_timesteps", "Number of noise levels of a .pt file.", low=1)
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
