"""Waiting for other processes: for content, never for a file to exist."""

import os
import time


def wait_until(is_so, seconds=60.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {seconds:g} seconds"
        time.sleep(0.02)


def text_of(path):
    """Returns the text of a file; empty if it does not exist."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def write_whole(path, text, mode=0o644):
    """Writes a file that nobody sees in parts."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.chmod(mode)
    part.replace(path)
