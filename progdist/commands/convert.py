"""Turns a model of another library into one of progdist.

  progdist convert ddpm-cifar10-32 --out=teachers/ddpm
  progdist convert unet/ --betas=linear --output=eps --out=teachers/unet

SOURCE is a folder of diffusers with a UNet2DModel, or a model of progdist.
The result is a model directory like any other: progdist sample, evaluate, export and
--config.teacher take it. Nothing in the source is executed.

Exit codes: 0 done; 2 bad input, in one line; 4 the model could not be written.
"""

from progdist.commands.parser import Flags
from progdist.diffusion.settings import Parameterization
from progdist.errors import UsageError
from progdist.nets.types import Betas
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
    options = teachers.Options(output=values["output"], betas=values["betas"])
    teacher = teachers.read_teacher(values["source"], options)
    teachers.convert(teacher, out, values["source"])
    print(out)
