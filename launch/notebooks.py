"""Runs the notebooks and writes what they show into them.

  python -m launch.notebooks                  all of them
  python -m launch.notebooks --only=library   one
  python -m launch.notebooks --repository=OWNER/NAME

The last gives them, once the project is published on GitHub, its address, and them and
README.md Colab's badges, and runs nothing. Needs pip install 'progdist[test]'. This
Python runs them, from the top of the checkout; one is written only if all of its cells
ran.
"""

import copy
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from absl import flags
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from launch import command_line
from launch.command_line import UsageError

ROOT = Path(__file__).resolve().parents[1]
NAMES = "library", "digits", "draw"
_COLAB = "https://colab.research.google.com"
_BADGE = r" \[!\[Open in Colab\]\(\S+?\)\]\(\S+?\)"

FLAGS = flags.FlagValues()
_ONLY = flags.DEFINE_multi_enum("only", None, NAMES, "Which.", flag_values=FLAGS)
_REPOSITORY = flags.DEFINE_string(
    "repository", "", "OWNER/NAME on GitHub; runs nothing.", flag_values=FLAGS
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Only print which, one a line.", flag_values=FLAGS
)


def main(argv: list[str]) -> int:
    """Runs what the flags describe; returns the exit code."""
    command_line.parse(FLAGS, argv, __doc__)
    repository = _REPOSITORY.value
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"--repository={repository}: must look like OWNER/NAME")
    for name in _ONLY.value or NAMES:
        path = notebook_path(name)
        print(path.relative_to(ROOT), flush=True)
        if _DRY_RUN.value:
            continue
        notebook = nbformat.read(path, as_version=4)
        if repository:
            address(notebook, name, repository)
        else:
            try:
                notebook = execute(notebook)
            except (CellExecutionError, CellTimeoutError) as error:
                print(error, file=sys.stderr)
                return 1
        nbformat.write(notebook, path)
    if repository and not _DRY_RUN.value:
        page = ROOT / "README.md"
        text = with_badges(page.read_text("utf-8"), repository, _ONLY.value or NAMES)
        page.write_text(text, "utf-8")
    return 0


def notebook_path(name: str) -> Path:
    """Returns where the notebook of that name lies."""
    return ROOT / "launch" / f"{name}.ipynb"


def execute(
    notebook: NotebookNode,
    parameters: Mapping[str, Any] | None = None,
    cell_seconds: int = 3600,
) -> NotebookNode:
    """Returns the notebook with the outputs of running all its cells in order.

    The kernel listens to nobody but this process, and reads no settings of the user.

    Args:
      notebook: stays as it is.
      parameters: are set in a cell of their own after the one tagged "parameters".
      cell_seconds: the most that a cell may take.

    Raises:
      CellExecutionError: if a cell fails.
      CellTimeoutError: if one takes too long.
    """
    notebook = copy.deepcopy(notebook)
    if parameters:
        _set(notebook, parameters)
    with tempfile.TemporaryDirectory(prefix="notebook") as private:
        manager = AsyncKernelManager(
            # Of kernels only the one of this Python.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=f"{private}/connection.json",
            transport="ipc",
            ip=f"{private}/kernel",
        )
        client = nbclient.NotebookClient(
            notebook,
            km=manager,
            timeout=cell_seconds,
            resources={"metadata": {"path": str(ROOT)}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env=_environment(private), cleanup_kc=True)
    return _tidy(notebook)


def address(notebook: NotebookNode, name: str, repository: str) -> None:
    """Puts the project's address into a notebook, and Colab's badge below its title."""
    badge = _badge(name, repository)
    title, *text = notebook.cells[0].source.splitlines()
    text = [line for line in text if not line.startswith("[![Open in Colab]")]
    notebook.cells[0].source = "\n".join([title, badge, *text])
    for cell in notebook.cells:
        cell.source = re.sub(
            r'^REPOSITORY = "[^"]*"',
            f'REPOSITORY = "https://github.com/{repository}"',
            cell.source,
            flags=re.MULTILINE,
        )


def with_badges(page: str, repository: str, names: Sequence[str] = NAMES) -> str:
    """Returns the page with Colab's badge behind each link to a notebook."""
    for name in names:
        link = f"](launch/{name}.ipynb)"
        page = re.sub(re.escape(link) + _BADGE, link, page)
        page = page.replace(link, f"{link} {_badge(name, repository)}")
    return page


def _badge(name: str, repository: str) -> str:
    url = f"{_COLAB}/github/{repository}/blob/main/launch/{name}.ipynb"
    return f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({url})"


def _set(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    after = next(i for i, tagged in enumerate(tags) if "parameters" in tagged) + 1
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(after, nbformat.v4.new_code_cell(source))


def _environment(private: str) -> dict[str, str]:
    """That of this process, but for where Jupyter and IPython keep their files."""
    places = "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"
    environment = os.environ | dict.fromkeys(places, private)
    environment.pop("MPLBACKEND", None)  # or pictures would not reach the notebook
    return environment


def _tidy(notebook: NotebookNode) -> NotebookNode:
    """Leaves nothing of the machine: versions, paths, the pieces that output came in.

    Outputs of cells tagged "remove-output" go, too.
    """
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if "remove-output" in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.outputs:
            if "text" in output:
                output.text = output.text.replace(f"{ROOT}/", "")
    return notebook


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
