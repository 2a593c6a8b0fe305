"""Presets by their names, and the configuration files of users."""

import ast
import sys
from pathlib import Path

import pytest

from progdist.config import Config, ConfigError, load_preset, to_json
from progdist.config.presets import load_config, preset_names, smoke, summary
from progdist.data import DataError

ROOT = Path(__file__).parents[1]
# Those that need no words of the user's.
NAMES = [name for name in preset_names() if name != "folder"]
CONFIG = "from progdist.config import Config\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a configuration file, and returns its name in the current directory."""
    monkeypatch.chdir(tmp_path)

    def call(body, name="mine.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(CONFIG + body)
        return name

    return call


# --- presets


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_its_file_whatever_the_current_directory(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = f"configs/{name}.py"
    of_file, small = load_config(path), load_config(f"{path}:smoke")
    monkeypatch.chdir("/")
    assert load_preset(name) == load_config(name) == of_file
    assert load_preset(name, "smoke") == load_config(f"{name}:smoke") == small
    assert small == smoke(of_file) != of_file


@pytest.mark.parametrize("name", preset_names())
def test_a_summary_is_a_sentence(name):
    text = summary(name)
    assert text[0].isupper()
    assert text.endswith(".")
    assert len(f"{name:14} {text}") <= 88


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_needs_nothing_but_the_package_and_the_standard_library(name):
    tree = ast.parse((ROOT / "configs" / f"{name}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {str(node.module) for node in imports} | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    rooms = {name.partition(".")[0] for name in names}
    assert rooms <= {"progdist", *sys.stdlib_module_names}
    assert all(node.level == 0 for node in imports)


def test_a_package_of_the_users_named_configs_is_neither_imported_nor_in_the_way(
    write, tmp_path, monkeypatch
):
    write("raise RuntimeError('imported')\n", "configs/__init__.py")
    mine = write("def get_config(): return Config(seed=9)\n", "configs/digits.py")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    assert load_config("digits").seed == 0
    assert load_config(mine).seed == 9
    assert not {name for name in set(sys.modules) - before if "config" in name}


# --- files of users


def test_a_file_has_the_variant_smoke(write):
    name = write("def get_config(): return Config(seed=9)\n")
    assert load_config(name) == Config(seed=9)
    assert load_config(f"{name}:smoke") == smoke(Config(seed=9))
    assert load_config(str(Path(name).absolute())) == Config(seed=9)


@pytest.mark.parametrize(
    ("parameter", "variant", "seed"),
    [
        ("variant", "", 0),
        ("variant", ":12", 2),
        ("variant", ":a:b", 3),
        ("variant", ":smoke", 5),
        ("variant='default'", "", 7),
        ("variant='default'", ":12", 2),
    ],
)
def test_a_function_with_a_parameter_gets_what_follows_the_colon(
    parameter, variant, seed, write
):
    word = parameter.partition("=")[0]
    name = write(f"def get_config({parameter}): return Config(seed=len({word}))\n")
    assert load_config(name + variant).seed == seed


@pytest.mark.parametrize(
    "name", ["a:b.py", "a:b/mine.py", "digits:mine.py", "my run.py"]
)
def test_a_path_may_hold_a_colon(name, write):
    write("def get_config(): return Config(seed=9)\n", name)
    assert load_config(f"./{name}").seed == 9
    assert load_config(f"./{name}:smoke") == smoke(Config(seed=9))


def test_a_file_may_have_the_name_of_a_module(write):
    loaded = sys.modules["ast"]
    load_config(write("def get_config(): return Config(seed=9)\n", "ast.py"))
    assert sys.modules["ast"] is loaded


def test_a_file_that_is_no_longer_there_does_not_stay_loaded(write):
    for seed in (1, 22):
        name = write(f"def get_config(): return Config(seed={seed})\n")
        assert load_config(name).seed == seed


# --- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.py", "none.py: no such file"),
        ("none.py:smoke", "none.py:smoke: no such file"),
        ("digits.py", "digits.py: no such file; --config=digits is a preset"),
        ("digit", "digit: is not a preset; presets are cifar10, digits, "),
        ("digit:smoke", "and files end in .py; did you mean digits?"),
        ("cifar", "did you mean cifar10?"),
        ("digits:tiny", "digits:tiny: the only variant is digits:smoke"),
        ("mine.txt", "mine.txt: is not a preset; "),
        (".", ".: is not a preset; "),
        ("folder.py", "folder.py: no such file"),
    ],
)
def test_what_is_not_there_is_one_line_that_leads_on(
    text, message, tmp_path, monkeypatch
):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load_config(text)
    assert str(refused.value).startswith(f"--config={text}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "does not define get_config"),
        ("get_config = 3", "3 is not a callable object"),
        ("def get_config(): pass", "get_config must return a progdist.config.Config"),
        ("def get_config(): return {}", "get_config must return a progdist.config.Co"),
        ("def get_config(a, b): pass", "missing 1 required positional argument: 'b'"),
        ("def get_config(): return Config(sed=1)", "unexpected keyword argument 'sed'"),
        ("def get_config(): return {}['a']", "KeyError: 'a'"),
        ("def get_config(): raise ValueError('one\\ntwo')", "ValueError: two"),
        ("def get_config(): raise ValueError", "mine.py: ValueError"),
        ("import sys; sys.exit(3)", "mine.py: SystemExit: 3"),
        ("def get_config(): exit()", "mine.py: SystemExit: None"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("def get_config(:", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("  x = 1\n y = 2", "IndentationError: "),
        ("x = '\0'", "mine.py: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_fails_is_one_line(body, message, write):
    with pytest.raises(ConfigError) as refused:
        load_config(write(body))
    assert str(refused.value).startswith("--config=mine.py: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_error_about_the_data_stays_what_it_is(write):
    with pytest.raises(DataError, match=r"^D: empty$"):
        load_config(
            write("from progdist.data import DataError\nraise DataError('D: empty')")
        )


def test_ctrl_c_in_a_file_is_ctrl_c(write):
    with pytest.raises(KeyboardInterrupt):
        load_config(write("raise KeyboardInterrupt"))


def test_a_configuration_is_a_copy_of_its_own():
    config = load_preset("digits")
    before = to_json(config)
    config.net.ch = 8
    assert to_json(load_preset("digits")) == before


POSTPONED = """
from __future__ import annotations
import dataclasses
from progdist.config import Config

@dataclasses.dataclass
class Sweep:
    seed: int = 7

def get_config() -> Config:
    return Config(seed=Sweep().seed)
"""


def test_a_file_may_define_dataclasses_of_its_own(tmp_path):
    (tmp_path / "sweep.py").write_text(POSTPONED)
    assert load_config(str(tmp_path / "sweep.py")).seed == 7
