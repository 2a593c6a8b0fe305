"""Prepares a TFDS dataset as array_record files, once, before training.

  progdist prepare cifar10 --dir=DIR
  progdist prepare imagenet2012 --image_size=64 --dir=DIR
  progdist prepare lsun/bedroom --image_size=128 --dir=DIR

Needs pip install 'progdist[prepare]', which includes TensorFlow; reading does not need
it. Archives that TFDS cannot download (ILSVRC2012_img_train.tar; all if there is no
network) belong in DIR/downloads/manual under their published names; TFDS verifies them.

With --image_size the images are cropped to the centre, resized and stored as PNG.
LSUN is read with `lmdb`, since the `tensorflow_io` that TFDS uses does not load with a
current TensorFlow. Digests of the files are written beside them. Prints the directory
of the output.

Images of your own need no preparation: progdist train runs/mine --config=folder:DIR.

Exit codes: 0 done; 2 bad input, in one line.
"""

from progdist.commands.parser import Flags
from progdist.errors import UsageError

# Data that is read as it is, and that TFDS does not have.
_PREPARED = "digits", "folder", "arrays", "random"


def define_flags() -> Flags:
    """Returns the flags."""
    flags = Flags("tfds_name")
    flags.text("tfds_name", "Name of the TFDS dataset, such as lsun/bedroom.")
    flags.text(
        "dir", "Data directory; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.", ""
    )
    flags.number(
        "image_size", "Height and width to store; 0 leaves the images as they are.", 0
    )
    return flags


def main(argv: list[str]) -> None:
    """Prepares the dataset that the command line describes."""
    values = define_flags().parse(argv, __doc__, "tfds_name")
    name = values["tfds_name"]
    if name in _PREPARED:
        raise UsageError(f"{name}: needs no preparation; see progdist train --list")

    from progdist.data.prepare import prepare

    print(prepare(**values))
