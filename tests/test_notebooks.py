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
from PIL import Image

from launch import notebooks
from launch.command_line import UsageError
from progdist.report import square_grid

# How many pictures each shows.
PICTURES = {"library": 8, "digits": 5, "draw": 4}
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
    assert Path.cwd() == tmp_path


def test_the_set_up_installs_from_git_for_the_accelerator(monkeypatch, tmp_path):
    machine = Machine(has_gpu=True)
    set_up(machine, monkeypatch, tmp_path, "https://example.org/progdist")
    (install,) = machine.commands
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert install[-1] == "progdist[cuda] @ git+https://example.org/progdist"


def test_the_set_up_installs_an_upload(monkeypatch, tmp_path):
    machine = Machine()
    upload = tmp_path / "progdist_checkout"
    upload.mkdir()
    set_up(machine, monkeypatch, tmp_path, "https://example.org/progdist")
    (install,) = machine.commands
    assert install[-1] == f"progdist @ {upload.as_uri()}"


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
    return execute_in(notebooks.ROOT, set_parameters(read(name), **parameters))


def execute_in(directory, notebook):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "ROOT", directory)
        return notebooks.execute(notebook, CELL_SECONDS)


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


def test_the_readme_has_the_address_and_a_badge_behind_each_link_once():
    page = (notebooks.ROOT / "README.md").read_text(encoding="utf-8")
    bare = re.sub(rf" {notebooks.BADGE}", "", page)
    for owner in ("first", "second"):
        page = notebooks.with_address(page, f"{owner}/progdist")
    for each in notebooks.NAMES:
        assert page.count(f"(launch/{each}.ipynb) [![Open in Colab](") == 1
        assert page.count(f"/second/progdist/blob/main/launch/{each}.ipynb)") == 1
    assert "first/progdist" not in page
    clone = "git clone https://github.com/second/progdist"
    assert clone in page
    page = page.replace(clone, re.search(r"git clone \S+", bare)[0])
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
def directory(tmp_path_factory):
    """An empty directory, where the digits and the drawing run."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def digits(directory):
    notebook = set_parameters(
        read("digits"), CONFIG="digits:smoke", SETTINGS=["--config.cpu_devices=1"]
    )
    return execute_in(directory, notebook)


def draw(directory, *cells, **parameters):
    notebook = set_parameters(read("draw"), **parameters)
    notebook.cells += cells
    return execute_in(directory, notebook)


def test_the_digits_are_trained_measured_and_drawn(digits, directory):
    assert len(shown(digits, "image/png")) == PICTURES["digits"]
    assert "64 images in 1 step: runs/digits/one_step.png" in printed(digits)
    lines = (directory / "runs" / "digits" / "eval.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["role"] == "student"]
    students = {n: values[0] for n, values in table(digits).items()}
    assert list(students) == [4, 2, 1]
    metrics = {(row["num_steps"], row["metric"]): row["value"] for row in rows}
    for n in (2, 1):
        assert float(students[n]) == pytest.approx(metrics[n, "FD-pixels"], rel=0.01)
        assert (n, "precision-pixels") in metrics
    assert not tagged(digits, "remove-output")[0].outputs
    assert "\x1b" not in printed(digits)


def test_a_student_draws_what_the_command_draws(digits, directory, tmp_path):
    out = tmp_path / "drawn.npy"
    cell = new_code_cell(f"np.save({str(out)!r}, rows[0])")
    settings = {"NUM_STEPS": [1, 2], "NUM_IMAGES": 64, "BATCH_SIZE": 64, "SEED": 7}
    drawn = draw(directory, cell, **settings)
    assert len(shown(drawn, "image/png")) == PICTURES["draw"]
    times = table(drawn)
    assert list(times) == [1, 2, 4]
    assert all(float(value) > 0 for row in times.values() for value in row)
    picture = np.asarray(Image.open(directory / "runs" / "digits" / "one_step.png"))
    grid = square_grid(np.load(out)).squeeze()
    # The command may split the batch over several devices.
    np.testing.assert_allclose(grid, picture.astype(int), rtol=0, atol=1)
    assert np.ptp(grid) > 50  # of 255: this is no blank


@pytest.mark.slow
def test_a_run_is_trained_where_there_is_none(tmp_path):
    training = ["--config=digits:smoke"]
    drawn = draw(tmp_path, TRAINING=training, NUM_STEPS=[1, 2], BATCH_SIZE=8)
    assert list(table(drawn)) == [1, 2, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "num_steps", "drawn_steps"),
    [("phase_00_steps_4", [1, 3], [1, 3, 4]), ("phase_02_steps_1", [1], [1])],
    ids=["teacher", "student"],
)
def test_a_single_model_draws(digits, directory, model, num_steps, drawn_steps):
    path = f"runs/digits/models/{model}"
    drawn = draw(directory, MODEL=path, NUM_STEPS=num_steps, BATCH_SIZE=8)
    assert list(table(drawn)) == drawn_steps


def test_a_cell_that_takes_too_long_is_ended():
    notebook = new_notebook(cells=[new_code_cell("import time\ntime.sleep(60)")])
    with pytest.raises(CellTimeoutError):
        notebooks.execute(notebook, cell_seconds=1)
