"""Strict JAX for every test, on eight simulated devices."""

import functools
import gc
import os
import tempfile
import uuid
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# What one test has compiled, the commands that another starts need not.
_CACHE = Path(tempfile.gettempdir()) / "progdist-tests-jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# What is known of data is kept for this process alone, until it ends.
_KNOWN = tempfile.TemporaryDirectory(prefix="progdist-tests-")
os.environ["XDG_CACHE_HOME"] = _KNOWN.name

import jax  # noqa: E402, after the environment that it reads
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from progdist import errors  # noqa: E402
from progdist.workdir import bucket, copies, lease  # noqa: E402
from tests import bucket_server  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
settings.register_profile("shared", deadline=None)  # the machine may be busy
settings.load_profile("shared")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """What is found in folders of images is kept in a place of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """An empty folder for images."""
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def strict_dtypes():
    """No array takes another's dtype unless the code says so."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="module")
def emulator():
    """The address of an emulator of buckets."""
    with bucket_server.serving() as url:
        yield url


@pytest.fixture
def url(emulator, monkeypatch, tmp_path):
    """The address of an empty folder in a bucket; the local disk is empty, too."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "LEASE_SECONDS", bucket_server.LEASE)
    monkeypatch.setattr(lease, "RENEW_SECONDS", bucket_server.RENEW)
    errors.shown_as.clear()
    monkeypatch.setattr(copies, "_copies", {})
    clients, make = [], bucket._client.__wrapped__

    def make_one(url):
        clients.append(make(url))
        return clients[-1]

    monkeypatch.setattr(bucket, "_client", functools.cache(make_one))
    yield f"gs://{bucket_server.BUCKET}/{uuid.uuid4().hex}"
    for client in clients:
        client.close()
    # The client forgets connections of requests that failed.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
