"""TensorBoard's files can be read at any time, and agree with the rows."""

import struct

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from progdist.diffusion import logsnr_bins
from progdist.workdir.events import Events
from tests.journals import measured, open_journal, row

NUM_BINS = len(logsnr_bins.CENTRES)


def masked(data):
    """The checksum of a record, as TensorFlow masks it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read(directory):
    """The events on disk, which must end with a whole one."""
    (path,) = directory.iterdir()
    data, events = path.read_bytes(), []
    while data:
        size, check = struct.unpack_from("<QI", data)
        assert check == masked(data[:8])
        content = data[12 : 12 + size]
        assert struct.unpack_from("<I", data, 12 + size) == (masked(content),)
        events.append(Event.FromString(content))
        data = data[16 + size :]
    return events


def values(events):
    return [(event.step, value) for event in events for value in event.summary.value]


def histogram(bars, tmp_path):
    """What TensorBoard shows: left and right ends of bars and their heights."""
    events = Events(tmp_path, 1)
    events.histogram("loss", bars, logsnr_bins.EDGES, 7)
    events.close()
    ((step, value),) = values(read(tmp_path))
    assert (step, value.tag) == (7, "loss")
    histo = value.histo
    # As its data_compat.py does.
    there = [k for k, height in enumerate(histo.bucket) if height > 0]
    if not there:
        return []
    inner = list(histo.bucket_limit)[there[0] : there[-1]]
    heights = histo.bucket[there[0] : there[-1] + 1]
    return list(zip([histo.min, *inner], [*inner, histo.max], heights, strict=True))


@pytest.mark.parametrize("there", [(3, 4, 7), (0, NUM_BINS - 1), (5,), ()])
def test_a_histogram_has_a_bar_for_each_bin(there, tmp_path):
    bars = [1.5 + k if k in there else None for k in range(NUM_BINS)]
    expected = [
        (c - 1, c + 1, bar or 0)
        for k, (c, bar) in enumerate(zip(logsnr_bins.CENTRES, bars, strict=True))
        if there and there[0] <= k <= there[-1]
    ]
    assert histogram(bars, tmp_path) == expected


def test_events_can_be_read_while_the_run_goes_on(tmp_path):
    journal, directory = open_journal(tmp_path, 4), tmp_path / "tensorboard"
    assert read(directory)[1].session_log.status == SessionLog.START
    assert read(directory)[1].step == 5  # hides what an earlier start said of it
    journal.metrics(row(5))
    told = {value.tag: value for _, value in values(read(directory))}
    assert told["train/loss"].simple_value == 1.0
    assert list(told["train/loss_by_logsnr"].histo.bucket) == [1.0] * NUM_BINS
    journal.evaluation(measured("FD", 2.0), 6)
    step, last = values(read(directory))[-1]
    assert (step, last.tag, last.simple_value) == (6, "FD/student_ddim", 2.0)
    journal.images("samples/student", np.zeros((8, 8, 1), np.uint8), 7)
    step, last = values(read(directory))[-1]
    assert (step, last.tag, last.image.height) == (7, "samples/student", 8)
    journal.close()
