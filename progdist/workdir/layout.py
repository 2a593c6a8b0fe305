"""Names of the files and folders in a workdir, and in an export."""

import re
from collections.abc import Container

CONFIG = "config.json"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
EVALUATIONS = "eval.jsonl"
STARTS = "starts.jsonl"
SAMPLES = "samples"
NEAREST = "nearest.npz"  # in samples
FIGURES = "figures"
CHECKPOINTS = "checkpoints"
MODELS = "models"
DISTANCES = "distances.jsonl"  # of a model, in its directory
TENSORBOARD = "tensorboard"
WANDB = "wandb"
PROFILE = "profile"
MEASURING = "measuring"  # unfinished measurements
REPORT = "report.html"
LOCK = "lock"
MANIFEST = "manifest.sha256"  # of a checkpoint or model, for sha256sum; written last

FILES = CONFIG, PLAN, METRICS, EVALUATIONS, STARTS, REPORT
DIRECTORIES = (
    SAMPLES,
    FIGURES,
    CHECKPOINTS,
    MODELS,
    TENSORBOARD,
    WANDB,
    PROFILE,
    MEASURING,
)

_OTHER_FILES = r"config\.\d+\.json|reproduction\.md|SHA256SUMS"


def is_of_run(name: str) -> bool:
    """Whether a path, relative to a workdir, is that of a file of the run."""
    first, slash, _ = name.partition("/")
    if slash:
        return first in DIRECTORIES
    return first in FILES or bool(re.fullmatch(_OTHER_FILES, first))


def is_checkpoint(name: str) -> bool:
    """Whether a path is that of a file of the checkpoints."""
    return name.startswith(f"{CHECKPOINTS}/")


def is_of_evaluation(name: str) -> bool:
    """Whether a path is that of a file of the run, but not of its checkpoints."""
    return is_of_run(name) and not is_checkpoint(name)


def tree_of(name: str) -> str:
    """Returns the directory of the checkpoint or model that holds a file, or ""."""
    first, *rest = name.split("/")
    whole = first in (CHECKPOINTS, MODELS) and len(rest) > 1
    return f"{first}/{rest[0]}" if whole else ""


def step_of(name: str) -> int:
    """Returns the number of the checkpoint that holds a file; -1 for other files."""
    tree = tree_of(name) if is_checkpoint(name) else ""
    step = tree.removeprefix(f"{CHECKPOINTS}/")
    return int(step) if step.isascii() and step.isdecimal() else -1


def is_of_model(name: str) -> bool:
    """Whether a path lies outside a run's folders of checkpoints and models."""
    return not {CHECKPOINTS, MODELS} & {*name.split("/")}


def is_manifest(name: str) -> bool:
    """Whether a path is that of the manifest of a checkpoint or model."""
    return name == f"{tree_of(name)}/{MANIFEST}"


def is_complete(name: str, names: Container[str]) -> bool:
    """Whether a file is part of no checkpoint or model that lacks its manifest."""
    tree = tree_of(name)
    return not tree or f"{tree}/{MANIFEST}" in names


# Files and folders of an export.
JAX_SAMPLER, ONNX_SAMPLER = "sampler.jax.zip", "sampler.onnx"
PARAMS, HUB, DIFFUSERS = "params.safetensors", "hub", "diffusers"
EXPORTS = JAX_SAMPLER, ONNX_SAMPLER, PARAMS, HUB, DIFFUSERS
