"""Teachers from diffusers: a pipeline of `UNet2DModel`, or that model alone.

A pipeline is a folder with model_index.json, whose parts are in unet/ and scheduler/ or
beside it. A model is a folder with config.json; its scheduler is looked for in it and
in ../scheduler. Layouts: diffusers 0.35, `models/unets/unet_2d.py` and
`schedulers/scheduling_ddpm.py`.

The scheduler says what the network was trained for: the betas, their number and the
meaning of the output. How it spaces its timesteps is left to the sampler. Its clipping
of x̂ is recorded in the card as `clip`, and does not decide that of progdist's samplers:
"keep" and "none" are those of `--clip`, "keep in ±2" has another range, and
"thresholding" (by quantiles) no sampler here has. The last step ends at alpha = 1, even
if `set_alpha_to_one` is false.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from progdist.checkpoint import CheckpointError
from progdist.errors import UsageError, escaped
from progdist.model import make_model, param_shapes, schedule_of
from progdist.nets.diffusers_settings import DiffusersUNetConfig
from progdist.sampling import hub
from progdist.teachers import diffusers_config, diffusers_weights
from progdist.teachers.diffusers_config import Found, InOut
from progdist.teachers.teacher import Options, Teacher
from progdist.workdir import files, rows

_CLASS = "UNet2DModel"
_INDEX, _CONFIG = hub.INDEX, "config.json"
_SCHEDULER = "scheduler_config.json"
_README_BYTES = 2**16  # of which the front matter is read


def read(path: Path, options: Options) -> Teacher:
    """Opens a pipeline or a model.

    Args:
      path: the folder.
      options: `output` and `betas` are needed without a scheduler, and override it.

    Raises:
      CheckpointError: if a file is missing, damaged or of another kind of network.
      UsageError: if there is no scheduler, and the options lack its facts, or if an
        option does not apply.
      FormatError: if a file is not JSON.
    """
    _check_options(path, options)
    folder = _model_folder(path)
    config = Found(folder / _CONFIG, _json_of(folder / _CONFIG))
    diffusers_config.check_class(config, (_CLASS,))
    scheduler = _find_scheduler(path, folder, options)
    output = options.output or diffusers_config.output_of(scheduler)
    levels = diffusers_config.timesteps_of(scheduler, options.betas, output)
    net, shapes = diffusers_config.net_of(config, levels)
    _check(config, net, shapes)
    card = {
        "phase": 0,
        "num_steps": levels.num_timesteps,
        "net": dataclasses.asdict(net),
        "output": output,
        "schedule": "timesteps",
        "image_shape": list(shapes.image_shape),
        "num_classes": net.num_classes,
        **_notes(path, scheduler),
    }
    return Teacher(card, _reader(folder, net, shapes))


def _check_options(path: Path, options: Options) -> None:
    """Refuses options of other formats, and the output of none of these networks."""
    why = f"{path} is of diffusers, whose files hold the network"
    options.check_applicable(("output", "betas"), why)
    if options.output == "both":
        raise UsageError(
            "--output=both: must be eps, x or v for a network of diffusers"
        )


def _reader(
    folder: Path, net: DiffusersUNetConfig, shapes: InOut
) -> Callable[[], dict[str, Any]]:
    """Returns the function that reads the parameters."""
    model = make_model(
        net,
        parameterization="eps",
        schedule=schedule_of("timesteps", net),
        image_shape=shapes.image_shape,
    )
    try:
        tree = param_shapes(model)
    except OverflowError:
        raise CheckpointError(f"{folder}: has sizes beyond any array") from None
    return lambda: diffusers_weights.read(folder, tree, shapes.out_channels)


def _check(config: Found, net: DiffusersUNetConfig, shapes: InOut) -> None:
    """Refuses settings that do not fit together."""
    channels = shapes.image_shape[2]
    if channels not in (1, 3):
        raise CheckpointError(
            f"{config.path}: in_channels is {channels}, accepted are 1 and 3, those of "
            "images"
        )
    try:
        net.check(shapes.image_shape)
    except ValueError as error:
        raise CheckpointError(f"{config.path}: {error}") from None


def _model_folder(path: Path) -> Path:
    """Returns the folder of the network."""
    if not (path / _INDEX).is_file():
        return path
    index = _json_of(path / _INDEX)
    others = [n for n in index if n[:1] != "_" and n not in ("unet", "scheduler")]
    if others:  # such as the decoder of latents
        raise CheckpointError(
            f"{path / _INDEX}: {others[0]!r:.60} is not one of unet, scheduler"
        )
    kind = index.get("unet")
    name = kind[-1] if isinstance(kind, list) and kind else kind
    if name != _CLASS:
        named = escaped(name) if name and isinstance(name, str) else "missing"
        raise CheckpointError(
            f"{path / _INDEX}: its unet is {named}, accepted is {_CLASS}"
        )
    return path / "unet" if (path / "unet").is_dir() else path


def _find_scheduler(path: Path, folder: Path, options: Options) -> Found:
    """Returns the settings of the scheduler; empty if the options replace them."""
    places = path, path / "scheduler", folder, folder.parent / "scheduler"
    for place in places:
        file = place / _SCHEDULER
        if file.exists():
            found = Found(file, _json_of(file))
            diffusers_config.check_class(found, diffusers_config.SCHEDULERS)
            return found
    if not (options.output and options.betas):
        raise UsageError(
            f"{path}: has no {_SCHEDULER}; pass --betas and --output, the rule of the "
            "betas and the meaning of the network's output"
        )
    return Found(path / _SCHEDULER, {})


def _notes(path: Path, scheduler: Found) -> dict[str, Any]:
    """Returns the fields of the card that a folder need not have."""
    notes = {}
    if scheduler.values:
        notes["clip"] = diffusers_config.clip_of(scheduler)
    license_name = _license(path)
    return notes | {"license": license_name} if license_name else notes


def _license(path: Path) -> str | None:
    """Returns the license that the front matter of README.md names, if any."""
    readme = path / "README.md"
    if not readme.is_file():
        return None
    with readme.open("rb") as file:
        lines = file.read(_README_BYTES).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        match = re.fullmatch(r"license:\s*[\"']?([\w.+-]{1,80})[\"']?\s*", line)
        if match:
            return match[1]
        if line.strip() == "---":
            return None
    return None


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return rows.parse(files.read_regular(path), str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or 'not readable'}") from None
