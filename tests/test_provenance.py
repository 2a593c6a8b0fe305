import json
import subprocess

import jax
import pytest

from progdist.config import Config, ConfigError, defaults_of_changed, load_preset
from progdist.trainer.resume import check_same_numerics
from progdist.workdir import provenance
from tests.workdirs import write_jsonl


def test_a_start_is_a_row_of_json():
    row = json.loads(
        json.dumps(provenance.of_start(defaults_of_changed(load_preset("digits")), 30))
    )
    assert row["global_step"] == 30
    assert row["devices"]["count"] == 8  # simulated by the tests
    assert row["versions"]["jax"].count(".") >= 2
    assert row["defaults"]["net.ch_mult"] == [1, 2]


@pytest.mark.parametrize(
    ("variable", "before", "now"),
    [
        ("XLA_FLAGS", "--b=1 --a=2 --xla_dump_to=x", "--a=2 --b=2"),
        ("NVIDIA_TF32_OVERRIDE", None, "0"),
        ("NVIDIA_TF32_OVERRIDE", "0", None),
    ],
)
def test_numerics_other_than_at_the_last_start_are_refused(
    variable, before, now, tmp_path, monkeypatch
):
    def choose(value):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)

    choose(before)
    rows = [{"global_step": 0}, provenance.of_start({}, 0), {"end": "done"}]
    write_jsonl(tmp_path / "starts.jsonl", rows)
    check_same_numerics(tmp_path)
    choose(now)
    with pytest.raises(ConfigError, match=f"{variable}: .* → .*; --override"):
        check_same_numerics(tmp_path)
    write_jsonl(tmp_path / "starts.jsonl", rows[:1])  # of an older version
    check_same_numerics(tmp_path)


def test_the_precision_of_products_is_of_the_numerics():
    assert provenance.numerics() == {}
    with jax.default_matmul_precision("float32"):
        name = "JAX_DEFAULT_MATMUL_PRECISION"
        assert provenance.numerics() == {name: "float32"}


def test_only_what_differs_has_its_default_noted():
    assert defaults_of_changed(Config()) == {}
    config = Config(seed=3)
    config.data.flip = True
    assert defaults_of_changed(config) == {"seed": 0, "data.flip": False}


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *who, *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_code_and_says_if_it_was_edited(
    tmp_path, monkeypatch
):
    module = tmp_path / "progdist" / "workdir" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.commit() is None
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "progdist")
    git(tmp_path, "commit", "--quiet", "--message=one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit() == commit
    (tmp_path / "run.log").touch()
    assert provenance.commit() == commit
    module.write_text("x = 1\n")
    assert provenance.commit() == f"{commit}+changes"


def test_a_repository_around_the_code_is_not_the_codes(tmp_path, monkeypatch):
    module = tmp_path / "site-packages" / "progdist" / "workdir" / "provenance.py"
    module.parent.mkdir(parents=True)
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.commit() is None
