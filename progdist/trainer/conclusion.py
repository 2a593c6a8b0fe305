"""End of a run: its figures, its closing table, and where to look next.

Reads files alone, without JAX, so that a finished run is shown again at once.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.style import Style
from rich.text import Text

from progdist import plan, report
from progdist.config import Config, from_json, plan_of
from progdist.errors import shown
from progdist.report.read.run import files_of
from progdist.trainer.display import Display
from progdist.workdir import layout
from progdist.workdir.bucket import is_url
from progdist.workdir.rows import EvalRow, StartRow, read_typed


def is_finished(config: Config, workdir: Path) -> bool:
    """Whether a run of exactly this configuration has ended in the workdir.

    Raises:
      InputError: if a file of the run is malformed.
    """
    path = workdir / layout.CONFIG
    if not path.exists() or from_json(path) != config:
        return False
    last = plan_of(config)[-1]
    ends = [row.end for row in read_typed(StartRow, workdir / layout.STARTS)]
    checkpoint = workdir / layout.CHECKPOINTS / str(last.end_update)
    if ends[-1:] != ["done"] or not checkpoint.is_dir():
        return False
    rows = read_typed(EvalRow, workdir / layout.EVALUATIONS)
    is_evaluated = config.evaluation.covers(last.num_steps)
    return not is_evaluated or last.number in {row.phase for row in rows}


def show_again(config: Config, workdir: Path) -> None:
    """Says that a run is finished, and shows its end; redraws what is out of date."""
    phases = plan_of(config)
    display = Display(phases)
    display.note(f"finished: {plan.describe(phases)}")
    if _is_out_of_date(workdir, config.evaluation.enabled):
        with display.counting("drawing the figures", 1):
            report.write_figures(workdir)
            report.write_page([workdir])
    show(workdir, phases[-1].num_steps, display)


def show(workdir: Path, num_steps: int, display: Display) -> None:
    """Prints the closing table, the paths of the pictures, and what to try next.

    Args:
      workdir: directory of the run.
      num_steps: number of steps of the last student.
      display: the display of the run, which is closed.
    """
    display.close()
    if (workdir / layout.EVALUATIONS).exists():
        display.result(report.closing_table(workdir))
    if goodput := report.read_goodput(workdir):
        display.note(f"{'goodput':11} {goodput}")
    for line in _where_next(workdir, num_steps):
        display.note(line)


def _where_next(workdir: Path, num_steps: int) -> Iterator[Text]:
    """Yields lines with the paths of the pictures, and with two commands."""
    here = Path.cwd()
    path = workdir.relative_to(here) if workdir.is_relative_to(here) else workdir
    address = shown(str(workdir))
    short = address if is_url(address) else str(path)
    for name in (layout.SAMPLES, layout.FIGURES, layout.REPORT):
        if (workdir / name).exists():
            link = Style(link=(workdir / name).absolute().as_uri())
            label = name.removesuffix(".html")
            yield Text(f"{label:11} ") + Text(f"{short}/{name}", link)
    run, flags = shlex.quote(short), f"--steps={num_steps} --num=64 --out=grid.png"
    yield Text(f"{'try':11} {_command()} sample {run} {flags}")
    if is_url(short):
        yield Text(f"{'':11} progdist report {run}")
    else:
        yield Text(f"{'':11} tensorboard --logdir={run}  # pip install tensorboard")


def _command() -> str:
    """Returns the name of the program, as it can be typed here."""
    typed = sys.argv[0]
    is_on_path = Path(typed).name != "progdist" or shutil.which("progdist")
    return "progdist" if is_on_path else shlex.quote(typed)


def _is_out_of_date(workdir: Path, is_evaluated: bool) -> bool:
    """Whether a figure is missing, or the page is older than what it shows."""
    page = workdir / layout.REPORT
    names = ["figures/training.png"]
    if is_evaluated:
        names += ["figures/quality.png", "samples/comparison.png"]
    if (workdir / layout.SAMPLES / "trajectories.npz").exists():
        names += ["figures/trajectories.png"]
    if not all(path.exists() for path in (page, *(workdir / name for name in names))):
        return True
    read = [path for path in files_of(workdir) if path.exists()]
    return any(os.path.getmtime(path) > os.path.getmtime(page) for path in read)
