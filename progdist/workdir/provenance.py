"""Provenance of a run: commit, versions, devices, changed settings."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from progdist.workdir.journal import utc_now

_PACKAGES = ("progdist", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_GIT_SECONDS = 10
_VARIABLES = "NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS"
_SETTINGS = (
    "jax_default_matmul_precision",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
)
# XLA's flags that change no result.
_HARMLESS = "--xla_dump", "--xla_force_host_platform_device_count"


def of_start(
    defaults: dict[str, Any], global_step: int, class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Returns the row of a start in starts.jsonl.

    Args:
      defaults: default of each field of the configuration that differs from it.
      global_step: update from which the run resumes.
      class_names: names of the classes, by number; None without classes.
    """
    devices = jax.devices()
    return {
        "time": utc_now(),
        "global_step": global_step,
        "commit": commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "versions": {"python": platform.python_version()} | versions(),
        "platform": platform.platform(),
        "host": platform.node(),
        "devices": {
            "kind": devices[0].device_kind,
            "backend": devices[0].platform,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "defaults": defaults,
        "numerics": numerics(),
        "class_names": class_names,
    }


def memory_bytes() -> int:
    """Returns the size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def numerics() -> dict[str, str]:
    """Returns what the user may choose and results depend on, such as XLA_FLAGS."""
    words = sorted(os.environ.get("XLA_FLAGS", "").split())
    chosen = {"XLA_FLAGS": " ".join(w for w in words if not w.startswith(_HARMLESS))}
    chosen |= {name: os.environ.get(name, "") for name in _VARIABLES}
    for name in _SETTINGS:
        value = getattr(jax.config, name, None)
        chosen[name.upper()] = str(value) if value not in (None, 0, "UNKNOWN") else ""
    return {name: value for name, value in chosen.items() if value}


def commit() -> str | None:
    """Returns the commit of the running code, with "+changes" if it was edited.

    None if the code is not in a git repository of its own.
    """
    root = Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    # The commit of an enclosing repository of another project means nothing.
    if not top or Path(top).resolve() != root:
        return None
    edited = _git(root, "status", "--porcelain", "--untracked-files=no")
    return (_git(root, "rev-parse", "HEAD") or "?") + ("+changes" if edited else "")


@functools.cache
def code() -> str:
    """Returns the commit at the first call, or else the version of the package."""
    return commit() or f"progdist {metadata.version('progdist')}"


def versions() -> dict[str, str]:
    """Returns the version of each package that results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(root: Path, *words: str) -> str | None:
    """Returns the output of git; None if git is missing, slow or fails."""
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
