"""Event files for TensorBoard, written by the thread that has something to say.

tensorboardX's own SummaryWriter hands over to a thread. A full disk ends that thread,
and what is said after it waits for ever.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import histogram_raw, image as image_summary, scalar


class Events:
    """One event file; the numbers of an interrupted run beyond its start are hidden."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """Opens a file for numbers from `first_step` on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(directory / "events"))
        start: Any = SessionLog(status=SessionLog.START)
        self._write(first_step, session_log=start)
        self._file.flush()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Writes numbers by name, and sees that they are on disk."""
        for name, value in values.items():
            self._write(step, summary=scalar(name, value))
        self._file.flush()

    def histogram(
        self,
        name: str,
        bars: Sequence[float | None],
        edges: Sequence[float],
        step: int,
    ) -> None:
        """Writes bars between edges, None for no bar, and sees that they are on disk.

        TensorBoard takes min and max, not the edges, for the ends of the outer bars.
        """
        heights = np.array([bar or 0.0 for bar in bars])
        ends = np.array(edges, np.float64)
        middles = (ends[1:] + ends[:-1]) / 2
        there = np.flatnonzero(heights) if heights.any() else np.array([0])
        summary = histogram_raw(
            name,
            min=ends[there[0]],
            max=ends[there[-1] + 1],
            num=heights.sum(),
            sum=heights @ middles,
            sum_squares=heights @ middles**2,
            bucket_limits=ends[1:].tolist(),
            bucket_counts=heights.tolist(),
        )
        self._write(step, summary=summary)
        self._file.flush()

    def image(self, name: str, image: UInt8[np.ndarray, "h w ch"], step: int) -> None:
        """Writes a picture, and sees that it is on disk."""
        self._write(step, summary=image_summary(name, image, dataformats="HWC"))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, **content))
