"""A data set in a zip archive, read in place: nothing is extracted.

Names are keys alone, never paths. The size of a member is compared with a limit before
it is read, and its checksum after.
"""

import dataclasses
import os
import threading
import zipfile
from pathlib import Path

import numpy as np

from progdist.data import identity
from progdist.data.images import ImageError
from progdist.data.listing import (
    Listing,
    check_size,
    is_skipped,
    printable,
    select_images,
)
from progdist.data.source import DataError

_ENCRYPTED = 1  # bit of a member's flags


@dataclasses.dataclass(frozen=True, eq=False)
class Archive:
    """Files of an archive, below one of its directories.

    Attributes:
      path: path of the archive.
      file: the open archive.
      members: the files by their whole names; a directory has the value None.
      prefix: name of the directory, ending in a slash; empty for the whole archive.
    """

    path: Path
    file: zipfile.ZipFile
    members: dict[bytes, zipfile.ZipInfo | None]
    prefix: bytes = b""
    # Threads share one position in the file.
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        """Path of the archive and the directory in it."""
        return printable(self.path) + printable(b"/" + self.prefix).rstrip("/")

    def entries(self) -> dict[str, bool]:
        """Names directly below, and whether each is a directory."""
        found: dict[bytes, bool] = {}
        for name, member in self.members.items():
            if name.startswith(self.prefix):
                first, slash, _ = name.removeprefix(self.prefix).partition(b"/")
                found[first] = found.get(first) or bool(slash) or member is None
        return {os.fsdecode(name): is_dir for name, is_dir in sorted(found.items())}

    def below(self, name: str) -> "Archive":
        """Returns the files of a directory among the entries."""
        prefix = self.prefix + os.fsencode(name) + b"/"
        return dataclasses.replace(self, prefix=prefix)

    def listing(self) -> Listing:
        """Lists the images."""
        whole = identity.stamp(b"", os.stat(self.path))
        names, ignored = select_images(
            name.removeprefix(self.prefix)
            for name, member in self.members.items()
            if member and name.startswith(self.prefix)
        )
        stamps = (identity.short_digest(b"%d %s" % (whole, name)) for name in names)
        return Listing(names, np.fromiter(stamps, np.uint64, len(names)), ignored)

    def read(self, name: bytes) -> bytes:
        """Reads a member; refuses one that is encrypted, damaged or too large."""
        member = self.members.get(self.prefix + name)
        if member is None:
            raise ImageError("not in the archive")
        if member.flag_bits & _ENCRYPTED:
            raise ImageError("encrypted")
        check_size(member.file_size)
        try:
            with self.lock:
                return self.file.read(member)
        except MemoryError:
            raise
        except Exception as error:  # zipfile and its decoders raise almost anything
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise ImageError(f"not readable: {reason}") from error


def open_archive(path: Path) -> Archive:
    """Opens a zip archive and lists its members.

    Raises:
      DataError: if it is no complete archive, or holds a name twice.
    """
    try:
        file = zipfile.ZipFile(path)  # closes the file when it is dropped
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"data.dir={printable(path)}: neither a directory nor a zip archive "
            f"({reason})"
        ) from error
    members: dict[bytes, zipfile.ZipInfo | None] = {}
    for member in file.infolist():
        parts = member.filename.encode("utf-8", "surrogateescape").split(b"/")
        parts = [part for part in parts if part not in (b"", b".")]
        if any(map(is_skipped, parts)):
            continue
        name = b"/".join(parts)
        if name in members and not member.is_dir():
            raise DataError(f"{printable(path)}: holds {printable(name)} twice")
        members[name] = None if member.is_dir() else member
    return Archive(path, file, members)
