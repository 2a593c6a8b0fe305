"""TensorBoard event files, written in the caller's thread.

The SummaryWriter of tensorboardX writes in its own thread. A full disk ends that
thread, and later calls block for ever.
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
    """One event file; hides the scalars of earlier starts from its first step on."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """Opens a file for scalars from `first_step` on."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(str(directory / "events"))
        start: Any = SessionLog(status=SessionLog.START)
        self._write(first_step, session_log=start)
        self._file.flush()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Writes and flushes scalars by name."""
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
        """Writes and flushes a histogram: a value per bin, None for an empty bin.

        TensorBoard uses min and max, not the edges, as the ends of the outer bins.
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
        """Writes and flushes an image."""
        self._write(step, summary=image_summary(name, image, dataformats="HWC"))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, **content))
