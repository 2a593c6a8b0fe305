"""Strict JAX for every test, on eight simulated devices."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# What one test has compiled, the commands that another starts need not.
_CACHE = Path(tempfile.gettempdir()) / "progdist-tests-jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax  # noqa: E402, after the environment that it reads
from hypothesis import settings  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
settings.register_profile("shared", deadline=None)  # the machine may be busy
settings.load_profile("shared")
jax.config.update("jax_numpy_rank_promotion", "raise")
