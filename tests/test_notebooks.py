"""The notebooks run in small, and lie there with the outputs of a decent run."""

import ast
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellTimeoutError
from nbformat.v4 import new_code_cell, new_notebook

import progdist
from launch import notebooks
from launch.command_line import UsageError
from progdist import checkpoint

# How many pictures each shows.
PICTURES = {"library": 8, "digits": 5, "draw": 2}
MOST_BYTES, CELL_SECONDS = 1_000_000, 120


def read(name):
    return nbformat.read(notebooks.notebook_path(name), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def shown(notebook, kind):
    """What the outputs hold of a MIME type, in order."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [o.data[kind] for o in outputs if kind in o.get("data", {})]


def printed(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream")


def table(notebook):
    """The rows of the one table that is shown, by the number of steps."""
    (text,) = shown(notebook, "text/markdown")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    return {int(n): values for n, *values in lines[2:]}


@pytest.fixture(params=PICTURES)
def name(request):
    return request.param


# What lies there.


def test_each_shows_its_pictures_in_less_than_a_megabyte(name):
    assert notebooks.notebook_path(name).stat().st_size < MOST_BYTES
    assert len(shown(read(name), "image/png")) == PICTURES[name]


def test_each_was_run_from_top_to_bottom_without_an_error(name):
    cells = code_cells(read(name))
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]


def test_nothing_of_a_machine_is_in_an_output(name):
    notebook = read(name)
    kinds = "text/plain", "text/markdown", "text/html"
    text = printed(notebook) + "".join("".join(shown(notebook, k)) for k in kinds)
    assert text
    assert not re.search(r"/(work|tmp|root|home|content|Users|usr|opt)\b", text)
    assert "\x1b" not in text


def test_no_other_metadata_are_left_over(name):
    notebook = read(name)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_each_begins_with_the_same_set_up_and_has_one_cell_of_settings(name):
    notebook = read(name)
    assert code_cells(notebook)[0].source == code_cells(read("library"))[0].source
    assert len(tagged(notebook, "parameters")) == 1


def test_the_library_is_shown_without_the_rest_of_the_package():
    tree = ast.parse("\n".join(cell.source for cell in code_cells(read("library"))))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    ours = {module for module in modules if module.startswith("progdist")}
    assert ours
    assert all(m.startswith("progdist.diffusion") for m in ours)


# The set-up.


class Machine:
    """A machine that lacks the project until pip is called."""

    def __init__(self, has_gpu=False):
        self.has_gpu, self.commands = has_gpu, []
        self._spec = importlib.util.find_spec("progdist")

    def find_spec(self, name):
        installed = any("pip" in command for command in self.commands)
        return self._spec if installed else None

    def run(self, command, check):
        self.commands.append([str(word) for word in command])

    def which(self, command):
        return command if self.has_gpu else None


def set_up(machine, monkeypatch, directory, repository=""):
    monkeypatch.chdir(directory)
    monkeypatch.setattr(importlib.util, "find_spec", machine.find_spec)
    monkeypatch.setattr(subprocess, "run", machine.run)
    monkeypatch.setattr("shutil.which", machine.which)
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = directory / "set_up.py"
    source = code_cells(read("library"))[0].source
    address = f"REPOSITORY = {repository!r}"
    source = re.sub(r'^REPOSITORY = ".*"', address, source, flags=re.MULTILINE)
    script.write_text(source)
    runpy.run_path(str(script))


def test_the_set_up_fetches_nothing_where_the_project_is(monkeypatch, tmp_path):
    machine = Machine()
    monkeypatch.setattr(machine, "find_spec", importlib.util.find_spec)
    set_up(machine, monkeypatch, tmp_path)
    assert machine.commands == []
    assert Path.cwd() == notebooks.ROOT


def test_the_set_up_clones_and_installs_for_the_accelerator(monkeypatch, tmp_path):
    machine = Machine(has_gpu=True)
    set_up(machine, monkeypatch, tmp_path, "https://example.org/progdist")
    clone, install = machine.commands
    assert clone[:2] == ["git", "clone"]
    assert clone[-2:] == ["https://example.org/progdist", "progdist_checkout"]
    assert install[-1] == f"{tmp_path / 'progdist_checkout'}[cuda]"


def test_the_set_up_installs_an_upload(monkeypatch, tmp_path):
    machine = Machine()
    (tmp_path / "progdist_checkout").mkdir()
    set_up(machine, monkeypatch, tmp_path)
    (install,) = machine.commands
    assert install[-1] == str(tmp_path / "progdist_checkout")


def test_the_set_up_asks_in_one_line_for_what_it_lacks(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"^Set REPOSITORY, or upload .*\.$"):
        set_up(Machine(), monkeypatch, tmp_path)


# Running them.


def set_parameters(notebook, **parameters):
    """Sets variables in a cell of their own after the one of the settings."""
    (cell,) = tagged(notebook, "parameters")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(notebook.cells.index(cell) + 1, new_code_cell(source))
    return notebook


def run_in_small(name, **parameters):
    return notebooks.execute(set_parameters(read(name), **parameters), CELL_SECONDS)


def test_a_notebook_is_run_by_this_python_from_the_top_of_the_checkout(
    monkeypatch, tmp_path
):
    other = tmp_path / "kernels" / "python3" / "kernel.json"  # that a user may have
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"argv": ["false"], "display_name": "Other"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    source = "import os, sys\nprint(number, sys.executable, os.getcwd(), flush=True)"
    cells = [
        new_code_cell("number = 2"),
        new_code_cell(source + "\nprint(f'{os.getcwd()}/launch')"),
        new_code_cell("print(3)", metadata={"tags": ["remove-output"]}),
    ]
    notebook = new_notebook(cells=cells)
    done = notebooks.execute(notebook, CELL_SECONDS)
    python = sys.executable.removeprefix(f"{notebooks.ROOT}/")  # it may lie there
    assert printed(done) == f"2 {python} {notebooks.ROOT}\nlaunch\n"
    assert len(done.cells[1].outputs) == 1  # however many pieces it came in
    assert printed(notebook) == ""  # what was given is as it was


def test_no_kernel_is_left_behind():
    notebook = new_notebook(cells=[new_code_cell("import os\nprint(os.getpid())")])
    number = int(printed(notebooks.execute(notebook)))
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_what_fails_is_not_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    path = tmp_path / "launch" / "draw.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert notebooks.main(["notebooks", "--only=draw"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_published_project_has_its_address_and_badge_once():
    notebook = read("draw")
    for owner in ("first", "second"):
        notebooks.address(notebook, "draw", f"{owner}/progdist")
    text = "\n".join(cell.source for cell in notebook.cells)
    assert text.count('REPOSITORY = "https://github.com/second/progdist"') == 1
    assert text.count("/github/second/progdist/blob/main/launch/draw.ipynb)") == 1
    assert "first/progdist" not in text


def test_the_readme_has_a_badge_behind_each_link_once():
    page = (notebooks.ROOT / "README.md").read_text(encoding="utf-8")
    bare = re.sub(rf" {notebooks.BADGE}", "", page)
    for owner in ("first", "second"):
        page = notebooks.with_badges(page, f"{owner}/progdist")
    for each in notebooks.NAMES:
        assert page.count(f"(launch/{each}.ipynb) [![Open in Colab](") == 1
        assert page.count(f"/second/progdist/blob/main/launch/{each}.ipynb)") == 1
    assert "first/progdist" not in page
    assert re.sub(rf" {notebooks.BADGE}", "", page) == bare


def test_an_address_that_is_none_is_refused():
    with pytest.raises(UsageError, match="must look like OWNER/NAME"):
        notebooks.main(["notebooks", "--repository=https://github.com/a/b"])


@pytest.fixture(scope="module")
def library():
    return run_in_small(
        "library",
        START_STEPS=4,
        WIDTH=32,
        BATCH_SIZE=128,
        FIRST_UPDATES=1000,
        NUM_UPDATES=500,
        NUM_SAMPLES=300,
    )


def test_the_students_of_the_library_land_where_their_teachers_do(library):
    assert len(shown(library, "image/png")) == PICTURES["library"]
    rows = {
        n: [float(value) for value in values] for n, values in table(library).items()
    }
    assert list(rows) == [2, 1]
    for exact, student, landing, skipping in rows.values():
        assert student < exact / 3
        assert landing < skipping / 3


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "digits"


@pytest.fixture(scope="module")
def digits(workdir):
    return run_in_small(
        "digits",
        WORKDIR=str(workdir),
        CONFIG="configs/digits.py:smoke",
        SETTINGS=["--config.cpu_devices=1"],
    )


def test_the_digits_are_trained_measured_and_drawn(digits, workdir):
    assert len(shown(digits, "image/png")) == PICTURES["digits"]
    assert f"64 images in 1 step: {workdir / 'one_step.png'}" in printed(digits)
    lines = (workdir / "eval.jsonl").read_text().splitlines()
    measured = [row for row in map(json.loads, lines) if row["role"] == "student"]
    students = {n: values[0] for n, values in table(digits).items()}
    assert list(students) == [4, 2, 1]
    for row in measured:
        assert float(students[row["num_steps"]]) == pytest.approx(
            row["value"], rel=0.01
        )
    assert not tagged(digits, "remove-output")[0].outputs
    assert "\x1b" not in printed(digits)


def test_a_student_draws_what_the_command_draws(digits, workdir, tmp_path):
    notebook = read("draw")
    out = str(tmp_path / "drawn.npy")
    notebook.cells.append(new_code_cell(f"np.save({out!r}, images[1])"))
    settings = {"WORKDIR": str(workdir), "NUM_IMAGES": 4, "BATCH_SIZE": 8}
    set_parameters(notebook, **settings)
    drawn = notebooks.execute(notebook, CELL_SECONDS)
    assert len(shown(drawn, "image/png")) == PICTURES["draw"]
    assert "N = [1, 2, 4]" in printed(drawn)
    assert all(float(ms) > 0 for ms, _ in table(drawn).values())
    wanted = progdist.load(workdir, steps=1).sample(4, batch_size=8)
    np.testing.assert_array_equal(np.load(out), wanted)
    assert np.ptp(wanted) > 50  # of 255: this is no blank


@pytest.mark.slow
def test_a_run_is_trained_where_there_is_none(tmp_path):
    workdir, training = str(tmp_path / "run"), ["--config=configs/digits.py:smoke"]
    drawn = run_in_small("draw", WORKDIR=workdir, TRAINING=training, BATCH_SIZE=8)
    assert "N = [1, 2, 4]" in printed(drawn)


@pytest.mark.slow
def test_a_single_model_draws_with_each_number_of_steps(digits, workdir):
    model = str(checkpoint.model_dir(workdir, 2, 1))
    drawn = run_in_small("draw", MODEL=model, NUM_STEPS=[1, 3], BATCH_SIZE=8)
    assert list(table(drawn)) == [1, 3]


def test_a_cell_that_takes_too_long_is_ended():
    notebook = new_notebook(cells=[new_code_cell("import time\ntime.sleep(60)")])
    with pytest.raises(CellTimeoutError):
        notebooks.execute(notebook, cell_seconds=1)
