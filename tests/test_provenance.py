import json
import subprocess

from configs import digits
from progdist.config import (
    Config,
    defaults_of_changed,
)
from progdist.workdir import provenance


def test_a_start_is_a_row_of_json():
    row = json.loads(
        json.dumps(provenance.of_start(defaults_of_changed(digits.get_config()), 30))
    )
    assert row["global_step"] == 30
    assert row["devices"]["count"] == 8  # simulated by the tests
    assert row["versions"]["jax"].count(".") >= 2
    assert row["defaults"]["net.ch_mult"] == [1, 2]


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
