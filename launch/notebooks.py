"""Runs the notebooks and writes their outputs into them.

  python -m launch.notebooks [--only=library]
  python -m launch.notebooks --repository=OWNER/NAME

The second form runs nothing. It writes the address of a published copy on GitHub into
the notebooks, and Colab badges into them and README.md.
"""

import copy
import os
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from absl import flags
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from launch import command_line
from launch.command_line import UsageError

ROOT = Path(__file__).resolve().parents[1]
NAMES = "library", "digits", "draw"
COLAB = "https://colab.research.google.com"
BADGE = r"\[!\[Open in Colab\]\(\S+?\)\]\(\S+?\)"  # as a pattern

FLAGS = flags.FlagValues()
flags.DEFINE_multi_enum("only", NAMES, NAMES, "Notebooks to run.", flag_values=FLAGS)
flags.DEFINE_string("repository", "", "OWNER/NAME on GitHub.", flag_values=FLAGS)
flags.DEFINE_bool("dry_run", False, "Only print the paths.", flag_values=FLAGS)


def main(argv: list[str]) -> int:
    """Runs the notebooks or writes the address into them; returns the exit code."""
    command_line.parse(FLAGS, argv, __doc__)
    repository = FLAGS.repository
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"--repository={repository}: must look like OWNER/NAME")
    for name in FLAGS.only:
        path = notebook_path(name)
        print(path.relative_to(ROOT), flush=True)
        if FLAGS.dry_run:
            continue
        notebook = nbformat.read(path, as_version=4)
        if repository:
            address(notebook, name, repository)
        else:
            try:
                notebook = execute(notebook)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                print(error, file=sys.stderr)
                return 1
        nbformat.write(notebook, path)
    if repository and not FLAGS.dry_run:
        page = ROOT / "README.md"
        page.write_text(with_address(page.read_text("utf-8"), repository), "utf-8")
    return 0


def notebook_path(name: str) -> Path:
    """Returns the path of a notebook."""
    return ROOT / "launch" / f"{name}.ipynb"


def execute(
    notebook: NotebookNode, cell_seconds: int = 3600, *, python: str = sys.executable
) -> NotebookNode:
    """Returns a copy of the notebook with the outputs of all its cells, run in order.

    The kernel is this Python, or another, at the top of the checkout. It accepts
    connections only from this process, and reads no user settings.
    """
    notebook = copy.deepcopy(notebook)
    with tempfile.TemporaryDirectory(prefix="notebook") as private:
        manager = AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # this Python's only
            connection_file=f"{private}/connection.json",
            transport="ipc",
            ip=f"{private}/kernel",
        )
        if spec := manager.kernel_spec:
            spec.argv[0] = python
        places = "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"
        environment = os.environ | dict.fromkeys(places, private)
        environment.pop("MPLBACKEND", None)  # or figures would not reach the notebook
        client = nbclient.NotebookClient(
            notebook, manager, timeout=cell_seconds, record_timing=False
        )
        client.resources = {"metadata": {"path": str(ROOT)}}
        client.coalesce_streams = True
        client.execute(env=environment, cleanup_kc=True)
    _tidy(notebook)
    return notebook


def _tidy(notebook: NotebookNode) -> None:
    """Removes versions, paths, and the outputs of cells tagged "remove-output"."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if "remove-output" in cell.metadata.get("tags", []):
            cell.outputs = []
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = output.text.replace(f"{ROOT}/", "")


def address(notebook: NotebookNode, name: str, repository: str) -> None:
    """Writes the project's address and, below the title, a Colab badge."""
    title, *text = re.sub(f"\n{BADGE}", "", notebook.cells[0].source).splitlines()
    notebook.cells[0].source = "\n".join([title, _badge(name, repository), *text])
    line = f'REPOSITORY = "https://github.com/{repository}"'
    for cell in notebook.cells:
        cell.source = re.sub(r'(?m)^REPOSITORY = "[^"]*"', line, cell.source)


def with_address(page: str, repository: str) -> str:
    """Returns the page with the address to clone, and badges behind the notebooks."""
    page = re.sub(r"git clone \S+", f"git clone https://github.com/{repository}", page)
    link, badge = rf"\]\(launch/(\w+)\.ipynb\)( {BADGE})?", _badge(r"\1", repository)
    return re.sub(link, rf"](launch/\1.ipynb) {badge}", page)


def _badge(name: str, repository: str) -> str:
    url = f"{COLAB}/github/{repository}/blob/main/launch/{name}.ipynb"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({url})"


if __name__ == "__main__":
    command_line.exit_with(main, sys.argv)
