"""The rows and pictures of a run on Weights & Biases, beside TensorBoard's.

A run of W&B has an id that is kept in the workdir, so that a resumed run continues it.
Its x-axis is `global_step`: rows after the restored checkpoint are logged once more, at
the same places. Nothing is sent but what is logged and the configuration: no code, no
git state, no output, and nothing about the machine.
"""

import importlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from progdist.errors import UsageError
from progdist.workdir import layout
from progdist.workdir.files import write_bytes

CONNECT_SECONDS, UPLOAD_SECONDS = 30.0, 20.0
_PRIVATE = {
    "quiet": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "host": "",
    "program": "",
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def check(project: str) -> None:
    """Refuses a project without a name, and to log without the package of W&B.

    Raises:
      UsageError: if either is missing.
    """
    if not project:
        raise UsageError("--wandb: needs the name of a project")
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # as of a directory that W&B has made here
        needs = "needs a package; pip install 'progdist[wandb]'"
        raise UsageError(f"--wandb={project}: {needs}")


class WandbRun:
    """A run of W&B; an error there does not end the run that logs."""

    def __init__(
        self,
        workdir: Path,
        project: str,
        config: Mapping[str, Any],
        note: Callable[[str], None],
    ) -> None:
        """Opens the run of the workdir, or continues it; without a network, offline.

        Args:
          workdir: directory of the run.
          project: name of the project.
          config: the configuration.
          note: shows a message to the user.

        Raises:
          UsageError: if W&B refuses, as without an API key.
        """
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        wandb: Any = importlib.import_module("wandb")
        self._wandb, self._note = wandb, note
        settings = wandb.Settings(
            init_timeout=CONNECT_SECONDS, finish_timeout=UPLOAD_SECONDS, **_PRIVATE
        )

        def start(mode: Any = None) -> Any:
            return wandb.init(
                project=project,
                id=_id_of(workdir),
                name=workdir.name,
                dir=workdir,
                config=dict(config),
                allow_val_change=True,
                resume="allow",
                mode=mode,
                settings=settings,
            )

        try:
            run: Any = start()
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise UsageError(f"--wandb={project}: {_first_line(error)}") from None
        except wandb.errors.CommError as error:
            note(f"W&B cannot be reached ({_first_line(error)}); logging offline")
            wandb.teardown()  # else the id would be in use
            run = start("offline")
        run.define_metric("global_step", hidden=True)
        run.define_metric("*", step_metric="global_step")
        self._run: Any = run

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """Logs scalars by name."""
        self._log(lambda: dict(values), step)

    def histogram(
        self,
        name: str,
        bars: Sequence[float | None],
        edges: Sequence[float],
        step: int,
    ) -> None:
        """Logs a histogram: a value per bin, None for an empty bin."""
        heights = [bar or 0.0 for bar in bars]
        make = self._wandb.Histogram
        self._log(lambda: {name: make(np_histogram=(heights, list(edges)))}, step)

    def image(self, name: str, image: UInt8[np.ndarray, "h w ch"], step: int) -> None:
        """Logs an image."""
        self._log(lambda: {name: self._wandb.Image(image)}, step)

    def __enter__(self) -> "WandbRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Uploads the rest, for a limited time."""
        if self._run:
            self._try(lambda: self._run.finish(exit_code=int(kind is not None)))

    def _log(self, values: Callable[[], dict[str, Any]], step: int) -> None:
        if self._run:
            self._try(lambda: self._run.log(values() | {"global_step": step}))

    def _try(self, act: Callable[[], object]) -> None:
        """Acts; after an error, of any kind that W&B raises, logs no more."""
        try:
            act()
        except Exception as error:
            self._run = None
            self._note(f"W&B failed ({_first_line(error)}); nothing more is logged")


def _id_of(workdir: Path) -> str:
    """Returns the id of the workdir's run; makes one if there is none yet."""
    path = workdir / layout.WANDB / "id"
    if not path.exists():
        write_bytes(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".")
