import os
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from progdist.workdir.compile_cache import remove_broken, use

WHOLE = zlib.compress(bytes(range(256)) * 50)


def entries(directory):
    return {path.name for path in directory.glob("*-cache")}


def test_entries_that_end_too_early_are_removed(tmp_path):
    for name, data in {
        "whole": WHOLE,
        "short": WHOLE[:-1],
        "empty": b"",
        "flipped": WHOLE[:100] + b"\0" + WHOLE[101:],
        "other": b"\x28\xb5\x2f\xfdpacked in another way",
    }.items():
        (tmp_path / f"{name}-cache").write_bytes(data)
    remove_broken(tmp_path)
    assert entries(tmp_path) == {"whole-cache", "other-cache"}


def test_only_what_is_younger_than_the_last_look_is_read(tmp_path):
    remove_broken(tmp_path)
    for name, age in (("old", -10), ("young", 10)):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(WHOLE[:-1])
        seconds = (tmp_path / "looked_at").stat().st_mtime + age
        os.utime(path, (seconds, seconds))
    remove_broken(tmp_path)
    assert entries(tmp_path) == {"old-cache"}


@pytest.fixture
def usual_cache():
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_entries_of_jax_are_of_this_kind(tmp_path, usual_cache):
    """One that was cut short is written again, and read without a warning."""
    use(tmp_path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()

    def compile_anew():
        jax.clear_caches()
        jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.float32(1)).block_until_ready()

    compile_anew()
    for path in tmp_path.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:-5])
    use(tmp_path)
    assert entries(tmp_path) == set()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compile_anew()
    remove_broken(tmp_path)
    assert entries(tmp_path)
