"""Flags and devices, shared by the commands."""

import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
from absl import flags, logging
from ml_collections import config_flags

from progdist.config import Config
from progdist.errors import Error, UsageError, last_line
from progdist.plan import MOST_STEPS as MOST_STEPS
from progdist.workdir import compile_cache, files

_RENAMED = {
    "config.model.output": "config.parameterization",
    "config.model.": "config.net.",
}
_LEAST_ROWS = 16  # batch rows per CPU device; fewer are not worth a device


# Settings of JAX on which results depend, and which its environment may change.
_FIXED = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_softmax_custom_jvp": False,
    "jax_use_direct_linearize": True,
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
}
_FORCED_COUNT = "--xla_force_host_platform_device_count"


class DeviceError(Error):
    """A device is in use; another attempt may succeed."""

    exit_code = 5


def define_config(values: flags.FlagValues) -> None:
    """Defines --config, with an override of each field by its type."""
    for hint in _closed_sets(Config):
        # ml_collections has no parser for Literal types, nor for tuples of them.
        is_tuple, inner = get_origin(hint) is tuple, get_args(hint)
        parser = _Names(get_args(inner[0])) if is_tuple else flags.EnumParser(inner)
        config_flags.register_flag_parser_for_type(hint, parser)
    config_flags.DEFINE_config_file(
        "config", None, "configs/NAME.py[:variant]", flag_values=values
    )


def get_config(values: flags.FlagValues) -> Config:
    """Returns the parsed configuration.

    Raises:
      UsageError: if the file is missing, or returns something else.
    """
    config: Any = values["config"].value
    try:
        seed_type = type(config.seed)
    except (OSError, AttributeError) as error:
        raise UsageError(f"--config: {last_line(error)}") from None
    if seed_type is not int or not isinstance(config, Config):
        raise UsageError("--config: get_config must return a progdist.config.Config")
    return config


def parse(
    values: flags.FlagValues,
    argv: list[str],
    about: str | None,
    required: Sequence[str] = (),
    words: Sequence[str] = (),
) -> list[str]:
    """Parses the command line; --help prints `about` and the flags, and exits.

    Args:
      values: the flags.
      argv: the command line.
      about: text of --help.
      required: names of required flags.
      words: names of required positional arguments.

    Returns:
      The positional arguments.

    Raises:
      UsageError: if a flag or argument is missing, unknown, invalid or superfluous.
    """
    # Orbax logs every file at level INFO, and at level ERROR the errors it raises.
    logging.set_verbosity(logging.FATAL)
    if {"--help", "-h"} & set(argv[1:]):
        print(f"{about}\n{values.get_help()}")
        sys.exit(0)
    _check_names(argv)
    values.unparse_flags()  # resets flags of an earlier call in this process
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise UsageError(last_line(error)) from None
    except Exception as error:  # the file is a program and may raise anything
        raise UsageError(f"--config: {last_line(error)}") from None
    if len(rest) > len(words):
        raise UsageError(f"{rest[len(words)]!r} is not a flag; flags are --name=value")
    if len(rest) < len(words):
        raise UsageError(f"{words[len(rest)]} is missing; see --help")
    for name in required:
        if values[name].value in (None, ""):
            raise UsageError(f"--{name} is missing; see --help")
    return rest


def _check_names(argv: Sequence[str]) -> None:
    """Refuses flags of version 0.1.0 that have been renamed, and a colon in a folder.

    ml_collections takes what follows the first colon of --config for the variant.
    """
    for word in argv:
        name, _, value = word.lstrip("-").partition("=")
        if name == "config" and "/" in value.partition(":")[2]:
            raise UsageError(f"--config={value}: its path must not hold a colon")
        for old, new in _RENAMED.items():
            if name.startswith(old):
                raise UsageError(f"--{name}: is --{name.replace(old, new)} now")


def prepare_devices(config: Config, num_processes: int = 1) -> None:
    """Opens the devices: fixes the numerics of JAX, and splits a CPU.

    Several devices let the cores of a CPU share a batch; with an accelerator they stay
    unused. Also sets up the cache of compiled programs. Must be called before the first
    array is created, and after the processes have joined.

    Raises:
      UsageError: if there is no such device, or the processes have different numbers.
      DeviceError: if a device is in use.
    """
    _fix_numerics()
    _split_cpu(config, num_processes)
    directory = files.cache_dir() / "jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        compile_cache.use(directory)
    try:
        counts = Counter(device.process_index for device in jax.devices())
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = last_line(error) if str(error) else "no such device"
        kind = DeviceError if "in use" in reason else UsageError
        raise kind(f"JAX_PLATFORMS={platforms}: {reason}") from None
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{n} on process {i}" for i, n in sorted(counts.items()))
        raise UsageError(f"all processes must have equally many devices, not {each}")


def _fix_numerics() -> None:
    """Sets what results depend on, and says so where the environment differs."""
    for name, value in _FIXED.items():
        now = getattr(jax.config, name, value)  # some versions lack some
        if now != value:
            jax.config.update(name, value)
            print(
                f"progdist: {name.upper()} is ignored, since results depend on it",
                file=sys.stderr,
                flush=True,
            )


def _split_cpu(config: Config, num_processes: int) -> None:
    is_forced = _FORCED_COUNT in os.environ.get("XLA_FLAGS", "")
    if is_forced and not config.cpu_devices:
        return
    where = f"config.cpu_devices={config.cpu_devices}"
    if is_forced:
        raise UsageError(f"{where}: XLA_FLAGS has {_FORCED_COUNT}; remove one of them")
    try:
        devices = config.cpu_devices or _devices_of(config, num_processes)
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # JAX has opened its devices, as in a notebook
        if config.cpu_devices:
            count = jax.device_count()
            raise UsageError(
                f"{where}: JAX runs in this process already, on {count} devices"
            ) from None


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices_of(config: Config, num_processes: int) -> int:
    """Returns the largest number of devices that fits the batches and the cores."""
    sizes = [config.base.batch_size, config.distill.batch_size]
    most = min(num_cores(), min(sizes) // num_processes // _LEAST_ROWS)
    sizes.append(config.evaluation.batch_size)
    fitting = (
        n
        for n in range(1, most + 1)
        if all(s % (n * num_processes) == 0 for s in sizes)
    )
    return max(fitting, default=1)


class _Names(flags.ArgumentParser):
    """Parser of names from a closed set, separated by commas."""

    def __init__(self, choices: Sequence[str]) -> None:
        """Takes the accepted names."""
        self._choices = choices

    def parse(self, argument: Any) -> tuple[str, ...]:
        """Returns the names; accepts them as a tuple or a list of Python, too."""
        if not isinstance(argument, str):
            return tuple(argument)
        names = [word.strip(" ()[]'\"") for word in argument.split(",")]
        names = [name for name in names if name]
        for name in names:
            if name not in self._choices:
                accepted = ", ".join(self._choices)
                raise ValueError(f"{name!r} is not one of {accepted}")
        return tuple(names)


def _closed_sets(cls: type) -> Iterator[Any]:
    """Yields the Literal types of the fields, nested ones too, and tuples of them."""
    hints: dict[str, Any] = get_type_hints(cls)
    for hint in hints.values():
        inner = get_args(hint) or (hint,)
        if get_origin(hint) is Literal or get_origin(inner[0]) is Literal:
            yield hint
        for part in inner:
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                yield from _closed_sets(part)
