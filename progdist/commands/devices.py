"""Devices of a command: numerics of JAX, the split of a CPU, compiled programs."""

import os
import sys
from collections import Counter

import jax

from progdist.config import Config
from progdist.errors import Error, UsageError, last_line
from progdist.workdir import compile_cache, files

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


def prepare(config: Config, num_processes: int = 1) -> None:
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


def prepare_for_sampling(batch_size: int) -> None:
    """Opens the devices as `prepare` does, for batches of this size alone."""
    config = Config()
    for settings in (config.base, config.distill, config.evaluation):
        settings.batch_size = batch_size
    prepare(config)


def summary() -> list[str]:
    """Returns a line for each kind of device: number, kind, backend and memory."""
    kinds = Counter((d.device_kind, d.platform) for d in jax.devices())
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    memory = f", {limit / 2**30:.1f} GiB each" if limit else ""
    return [f"{n} x {kind} ({backend}){memory}" for (kind, backend), n in kinds.items()]


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
    kinds = config.base, config.distill
    sizes = [kind.batch_size for kind in kinds]
    most = min(num_cores(), min(sizes) // num_processes // _LEAST_ROWS)
    sizes += [kind.micro_batch_size for kind in kinds]
    sizes.append(config.evaluation.batch_size)

    def fits(count: int) -> bool:
        is_shared = all(size % count == 0 for size in sizes)
        groups = [kind.clip_groups for kind in kinds]
        return is_shared and all(g % count == 0 or count % g == 0 for g in groups)

    fitting = (n for n in range(1, most + 1) if fits(n * num_processes))
    return max(fitting, default=1)
