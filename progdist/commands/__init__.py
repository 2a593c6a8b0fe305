"""The commands of `progdist`: their help, flags and main functions.

A command's module imports no JAX: a main function imports what it runs once the command
line has been parsed, so that --help and mistakes are answered at once.
"""

COMMANDS = {
    "train": "trains a teacher and distils it; resumes what was interrupted",
    "sample": "draws images from a run or a model",
    "evaluate": "measures samples against the data: FID, KID, precision and recall",
    "report": "writes a page about one or more runs",
    "export": "writes a model to share: safetensors, ONNX, jax.export, diffusers, Hub",
    "convert": "turns a model of another library into one of progdist",
    "prepare": "prepares CIFAR-10, ImageNet or LSUN for training",
    "reproduce": "measures the paper's CIFAR-10 models, beside its values",
    "fingerprint": "prints digests of a checkpoint, to compare runs",
    "env": "prints versions, devices and caches, for a bug report",
}
