"""Configurations as JSON, and their differences."""

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from progdist.config.check import check
from progdist.config.settings import Config, ConfigError
from progdist.errors import UsageError
from progdist.nets.settings import NetConfig
from progdist.workdir import layout
from progdist.workdir.files import FormatError, expand, read_regular

# Fields that may differ when a run resumes.
_HARMLESS = (
    "log_every",
    "save_every",
    "keep_checkpoints",
    "max_skipped",
    "stuck_seconds",
    "cpu_devices",
    "base.micro_batch_size",
    "distill.micro_batch_size",
    "data.dir",
    "data.num_workers",
    "evaluation.batch_size",
    "evaluation.enabled",
    "evaluation.max_steps",
    "evaluation.baselines",
    "evaluation.metrics",
    "evaluation.features",
    "evaluation.inception_weights",
)


def differences(old: Config, new: Config) -> list[str]:
    """Returns "field: old → new" of each field that changes what a run computes."""
    before, after = (_flatten(dataclasses.asdict(c)) for c in (old, new))
    return [
        f"{field}: {before.get(field)!r} → {value!r}"
        for field, value in after.items()
        if value != before.get(field) and field not in _HARMLESS
    ]


def defaults_of_changed(config: Config) -> dict[str, Any]:
    """Returns the default of each changed field, by name, such as "data.name"."""
    values, defaults = (_flatten(dataclasses.asdict(c)) for c in (config, Config()))
    return {f: v for f, v in defaults.items() if values.get(f, v) != v}


def field_names(config: Config) -> list[str]:
    """Returns the names of all fields, such as "data.name"."""
    return list(_flatten(dataclasses.asdict(config)))


def to_json(config: Config) -> str:
    """Returns the configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(path: Path) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ConfigError: if the file is missing, is not JSON, or has unknown fields.
    """
    try:
        return _from_dict(Config, _current(json.loads(read_regular(path))))
    except FormatError as error:
        raise ConfigError(str(error)) from None
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; is this the workdir of a run?"
        ) from None
    except (
        ValueError,
        RecursionError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise ConfigError(f"{path}: not a configuration ({error})") from None


def as_begun(config: Config, workdir: Path) -> Config | None:
    """Returns the configuration with what the run in the workdir took from its teacher.

    None if no run with this teacher has begun there.

    Raises:
      ConfigError: if the run's configuration is malformed.
    """
    path = workdir / layout.CONFIG
    begun = from_json(path) if config.teacher and path.exists() else None
    if begun is None or begun.teacher != config.teacher:
        return None
    if config.student == "teacher":
        config = dataclasses.replace(config, net=begun.net, schedule=begun.schedule)
    return dataclasses.replace(config, reparameterize=begun.reparameterize)


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(cls)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of version {version('progdist')}")
    fields = {}
    for name, value in values.items():
        classes = get_args(hints.get(name)) or (hints.get(name),)
        if dataclasses.is_dataclass(classes[0]):
            value = _from_dict(_class_of(value, classes), value)
        elif get_origin(hints.get(name)) is tuple:
            value = tuple(value)
        fields[name] = value
    return cls(**fields)


def net_from_dict(values: dict[str, Any]) -> NetConfig:
    """Returns the settings of a network from what `dataclasses.asdict` made of them.

    Raises:
      TypeError: if they are those of no known network.
    """
    classes: tuple[Any, ...] = get_args(NetConfig) or (NetConfig,)
    values = _current_net(values)
    return _from_dict(_class_of(values, classes), values)


def open_run(path: str) -> tuple[Path, Config]:
    """Returns a run's directory and its configuration, checked.

    Raises:
      UsageError: if there is no such directory.
      ConfigError: if its configuration is missing or malformed.
    """
    workdir = expand(path).absolute()
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: no such directory")
    config = from_json(workdir / layout.CONFIG)
    check(config)
    return workdir, config


def _current(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields under their current names, with what was implied before.

    0.1.0 called `net` `model`; until 0.2.0 no average had a warm-up.
    """
    if "model" in values:
        net = dict(values["model"])
        values = {k: v for k, v in values.items() if k != "model"}
        values |= {"parameterization": net.pop("output", "v"), "net": net}
    if "net" in values:
        values = values | {"net": _current_net(values["net"])}
    for name in ("base", "distill"):
        if values[name].get("ema_decay"):
            values = values | {name: {"ema_warmup": 0} | values[name]}
    return values


def _current_net(net: dict[str, Any]) -> dict[str, Any]:
    """Returns a network's fields; until 0.3.0 `remat` was true or false."""
    remat = net.get("remat")
    is_old = isinstance(remat, bool)
    return net | {"remat": "blocks" if remat else "none"} if is_old else net


def _class_of(values: dict[str, Any], classes: Sequence[Any]) -> Any:
    """Returns the settings class, among a closed set, that has most of these fields.

    Of several the first, so that settings which an earlier version wrote, with fewer
    fields, keep their class.
    """

    def shared(cls: Any) -> int:
        return len(values.keys() & {field.name for field in dataclasses.fields(cls)})

    return max(classes, key=shared)


def _flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{path}{name}.") if nested else {path + name: value}
    return flat
