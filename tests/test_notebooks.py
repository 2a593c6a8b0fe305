"""The notebooks run in small, and lie there with the outputs of a decent run."""

import ast
import copy
import functools
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from launch import notebooks
from launch.command_line import UsageError
from progdist.report import square_grid

# How many pictures each shows.
PICTURES = {"library": 8, "digits": 5, "draw": 4}
MOST_BYTES, CELL_SECONDS = 1_000_000, 300
COLABS = Path(__file__).parent / "colab.txt"
LIBRARY = {"START_STEPS": 4, "WIDTH": 32, "BATCH_SIZE": 128}
LIBRARY |= {"FIRST_UPDATES": 1000, "NUM_UPDATES": 500, "NUM_SAMPLES": 300}
DIGITS = {"CONFIG": "digits:smoke", "SETTINGS": ["--config.cpu_devices=1"]}
DRAWING = {"NUM_STEPS": [1, 2], "NUM_IMAGES": 64, "BATCH_SIZE": 64, "SEED": 7}
COLAB = """
import sys
from types import SimpleNamespace
place = SimpleNamespace(drive=SimpleNamespace(mount=print), output=None)
sys.modules["google.colab"] = place
get_ipython().run_line_magic = print
"""
LOSS = """
import os, signal, threading, time
from pathlib import Path

def lose():
    while not Path({path!r}).exists():
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)

assert os.getpgrp() == os.getpid()
threading.Thread(target=lose, daemon=True).start()
"""


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
    """A machine that lacks the project until pip has run."""

    def __init__(self, monkeypatch, has_gpu=False, refusals=0, upgraded=""):
        self.commands, self.kernel = [], SimpleNamespace(do_shutdown=self.shut_down)
        self.restarts, self.versions = 0, {"numpy": "2.1.3", "jax": "0.7.2"}
        self._refusals, self._upgraded = refusals, upgraded
        owners = {"numpy": ["numpy"], "not_loaded": ["jax"]}
        metadata = importlib.metadata
        monkeypatch.setattr(metadata, "distributions", self.distributions)
        monkeypatch.setattr(metadata, "packages_distributions", lambda: owners)
        monkeypatch.setattr(metadata, "version", lambda name: self.versions[name])
        monkeypatch.setattr(subprocess, "run", self.run)
        which = shutil.which("true") if has_gpu else None
        monkeypatch.setattr(shutil, "which", lambda command: which)

    def distributions(self, name):
        version = self.versions.get(name)
        return [SimpleNamespace(version=version)] if version else self.commands

    def run(self, command, **_):
        self.commands.append(command)
        refused = len(self.commands) <= self._refusals
        if self._upgraded and not refused:
            self.versions[self._upgraded] = "9"
        return SimpleNamespace(returncode=int(refused), stderr="ERROR: why\n")

    def shut_down(self, restart):
        self.restarts += restart


@pytest.fixture
def machine(monkeypatch):
    return functools.partial(Machine, monkeypatch)


def set_up(machine, monkeypatch, directory, repository=""):
    monkeypatch.chdir(directory)
    script = directory / "set_up.py"
    notebook = read("library")
    if repository:
        notebooks.address(notebook, "library", repository)
    script.write_text(code_cells(notebook)[0].source)
    runpy.run_path(str(script), {"get_ipython": lambda: machine})


def test_the_set_up_fetches_nothing_where_the_project_is(monkeypatch, tmp_path):
    set_up(None, monkeypatch, tmp_path)
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("uploads", "directory", "source"),
    [
        ("progdist-1-py3-none-any.whl", ".", "progdist-1-py3-none-any.whl"),
        ("progdist-1-py3-none-any (1).whl other-1-any.whl", ".", None),
        ("progdist-main/progdist/py.typed", ".", "progdist-main"),
        ("progdist/progdist/py.typed", "progdist", "progdist"),
        ("progdist/progdist/py.typed", "progdist/launch", "progdist"),
    ],
    ids=["wheel", "neither", "beside", "top of a checkout", "launch of a checkout"],
)
def test_the_set_up_installs_an_upload_before_the_address(
    machine, monkeypatch, tmp_path, uploads, directory, source
):
    for name in (f"{directory}/lies_here", *uploads.split(" other")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    it = machine()
    set_up(it, monkeypatch, tmp_path / directory, "owner/progdist")
    address = "git+https://github.com/owner/progdist"
    expected = (tmp_path / source).as_uri() if source else address
    (install,) = it.commands
    assert install[:4] == [sys.executable, "-m", "pip", "install"]
    assert install[4:] == [f"progdist @ {expected}", "numpy==2.1.3"]
    assert it.restarts == 0


def test_the_set_up_installs_the_plugin_of_the_accelerator(
    machine, monkeypatch, tmp_path
):
    it = machine(has_gpu=True)
    set_up(it, monkeypatch, tmp_path, "owner/progdist")
    assert it.commands[0][4].startswith("progdist[cuda] @ ")


def test_a_numpy_without_a_release_of_jax_is_replaced_and_the_kernel_restarted(
    machine, monkeypatch, tmp_path
):
    it = machine(refusals=1, upgraded="numpy")
    with pytest.raises(
        SystemExit, match=r"^numpy 2\.1\.3 → 9: .* Run the notebook again"
    ):
        set_up(it, monkeypatch, tmp_path, "owner/progdist")
    assert it.commands[1] == it.commands[0][:-1]
    assert it.restarts == 1


def test_a_package_that_was_not_loaded_needs_no_restart(machine, monkeypatch, tmp_path):
    it = machine(upgraded="jax")
    set_up(it, monkeypatch, tmp_path, "owner/progdist")
    assert it.restarts == 0


def test_the_set_up_says_in_one_line_what_it_lacks(machine, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"^Upload .* to \S+, or set REPOSITORY\.$"):
        set_up(machine(), monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="ERROR: why\npip could not install git"):
        set_up(machine(refusals=2), monkeypatch, tmp_path, "owner/progdist")


# Running them.


def set_parameters(notebook, **parameters):
    """Sets variables in a cell of their own after the one of the settings."""
    (cell,) = tagged(notebook, "parameters")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(notebook.cells.index(cell) + 1, new_code_cell(source))
    return notebook


def execute_in(directory, notebook, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "ROOT", directory)
        return notebooks.execute(notebook, CELL_SECONDS, **more)


def execute_and_lose(directory, notebook, path):
    """Runs the notebook on a machine that is lost as soon as a path exists there."""
    lost = copy.deepcopy(notebook)
    lost.cells.insert(0, new_code_cell(LOSS.format(path=path)))
    with pytest.raises(DeadKernelError):
        execute_in(directory, lost)


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
    return execute_in(notebooks.ROOT, set_parameters(read("library"), **LIBRARY))


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
def workdir(directory):
    return directory / "drive" / "MyDrive" / "runs" / "digits"


@pytest.fixture(scope="module")
def digits(directory, workdir):
    """The digits on Colab with a Drive, which loses the machine once."""
    notebook = on_colab(set_parameters(read("digits"), DRIVE="drive", **DIGITS))
    execute_and_lose(directory, notebook, str(workdir / "checkpoints" / "10"))
    return execute_in(directory, notebook)


def on_colab(notebook):
    notebook.cells.insert(0, new_code_cell(COLAB))
    return notebook


def draw(directory, *cells, **parameters):
    notebook = on_colab(set_parameters(read("draw"), DRIVE="drive", **parameters))
    notebook.cells += cells
    return execute_in(directory, notebook)


def test_the_digits_are_trained_measured_and_drawn(digits, workdir):
    assert len(shown(digits, "image/png")) == PICTURES["digits"]
    assert "64 images in 1 step: drive/MyDrive/runs/digits/one_step" in printed(digits)
    lines = (workdir / "eval.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["role"] == "student"]
    students = {n: values[0] for n, values in table(digits).items()}
    assert list(students) == [4, 2, 1]
    metrics = {(row["num_steps"], row["metric"]): row["value"] for row in rows}
    for n in (2, 1):
        assert float(students[n]) == pytest.approx(metrics[n, "FD-pixels"], rel=0.01)
        assert (n, "precision-pixels") in metrics
    assert not tagged(digits, "remove-output")[0].outputs
    assert "\x1b" not in printed(digits)


def test_a_lost_machine_costs_the_updates_since_the_last_checkpoint(digits, workdir):
    rows = map(json.loads, (workdir / "starts.jsonl").read_text().splitlines())
    starts = [row["global_step"] for row in rows if "global_step" in row]
    assert starts[0] == 0
    assert starts[1] >= 10


def test_the_lock_of_a_run_on_drive_lies_on_the_local_disk(digits, directory, workdir):
    assert "drive\n" in printed(digits)  # mounted
    assert not (workdir / "lock").exists()
    assert len(list((directory / "locks").iterdir())) == 1


def test_a_student_draws_what_the_command_draws(digits, directory, workdir, tmp_path):
    out = tmp_path / "drawn.npy"
    drawn = draw(directory, new_code_cell(f"np.save({str(out)!r}, rows[0])"), **DRAWING)
    assert len(shown(drawn, "image/png")) == PICTURES["draw"]
    times = table(drawn)
    assert list(times) == [1, 2, 4]
    assert all(float(value) > 0 for row in times.values() for value in row)
    picture = np.asarray(Image.open(workdir / "one_step.png"))
    grid = square_grid(np.load(out)).squeeze()
    # The command may split the batch over several devices.
    np.testing.assert_allclose(grid, picture.astype(int), rtol=0, atol=1)
    assert np.ptp(grid) > 50  # of 255: this is no blank


@pytest.mark.slow
def test_a_run_is_trained_where_there_is_none_and_resumed_where_it_was_lost(tmp_path):
    settings = {"TRAINING": ["--config=digits:smoke"], **DRAWING}
    notebook = set_parameters(read("draw"), **settings)
    models = "runs/digits/models"
    execute_and_lose(tmp_path, notebook, f"{models}/phase_01_steps_2")
    assert not (tmp_path / models / "phase_02_steps_1").exists()
    assert list(table(execute_in(tmp_path, notebook))) == [1, 2, 4]


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


# Beside the packages of Colab.


def run_in(python, *words):
    done = subprocess.run([python, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def has_version(python):
    """Whether the command exists, and is no shim of another version's."""
    try:
        return not subprocess.run([python, "--version"], capture_output=True).returncode
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_notebooks_run_on_the_packages_of_colab(tmp_path, monkeypatch):
    """Installed there from a checkout, with a NumPy and a Jupyter that stay."""
    commands = [name for name in ("python3.13", "python3.12") if has_version(name)]
    if not commands:
        pytest.skip("no Python 3.13 or 3.12")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    checkout, python = tmp_path / "progdist", str(tmp_path / "venv" / "bin" / "python")
    for room in ("progdist", "configs"):
        shutil.copytree(notebooks.ROOT / room, checkout / room)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(notebooks.ROOT / name, checkout)
    run_in(commands[0], "-m", "venv", tmp_path / "venv")
    run_in(python, "-m", "pip", "install", "-r", COLABS)
    loaded = new_code_cell("import flax, jax, matplotlib.pyplot, numpy, pandas")
    trials = {"library": LIBRARY, "digits": DIGITS, "draw": DRAWING}
    for name, settings in trials.items():
        notebook = set_parameters(read(name), **settings)
        notebook.cells.insert(0, loaded)
        if name == "library":
            with pytest.raises(CellExecutionError, match=r"jax 0\.7\.2 → .*restarts"):
                execute_in(tmp_path, notebook, python=python)
        done = execute_in(tmp_path, notebook, python=python)
        assert len(shown(done, "image/png")) == PICTURES[name]
    source = "from importlib.metadata import requires, version as v\n"
    source += "print(v('numpy'), v('jax'), *requires('jax'))"
    version, jax, *needs = run_in(python, "-c", source).split()
    assert version == "2.1.3"
    assert f"jax-cuda12-plugin[with-cuda]<={jax},>={jax};" in needs
    plugin = f"jax-cuda12-plugin=={jax}"  # which exists for this Python
    run_in(python, "-m", "pip", "install", "--dry-run", "--no-deps", plugin)
