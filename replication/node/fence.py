"""The fence: a small file outside of a database that tells of its last mount (replication.md, "Identity").

It is written in its place, so that its inode stays: one that was copied is told by that. A write that was cut
off leaves a checksum that does not hold, and so no fence.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.replication.core.identity import Fence, Place
from pillarbox.store.disk.stream import disk_error

MAGIC: Final = b"PBFN"
VERSION: Final = 1
_FENCE: Final = struct.Struct("<4sBBBx16sI16s16sQ")
_CHECKSUM: Final = struct.Struct("<I")
FENCE_BYTES: Final = _FENCE.size + _CHECKSUM.size
assert FENCE_BYTES == 72


def encode(fence: Fence) -> bytes:
    """A fence as bytes."""
    data = _FENCE.pack(
        MAGIC,
        VERSION,
        fence.is_open,
        fence.is_doubted,
        fence.database,
        fence.incarnation,
        fence.nonce,
        fence.place.machine,
        fence.place.inode,
    )
    return data + _CHECKSUM.pack(zlib.crc32(data))


def decode(data: bytes) -> Fence | None:
    """The fence that these bytes are; None for anything else, a newer version too."""
    if len(data) != FENCE_BYTES or data[:5] != MAGIC + bytes([VERSION]):
        return None
    if _CHECKSUM.unpack(data[_FENCE.size :])[0] != zlib.crc32(data[: _FENCE.size]):
        return None
    _, _, is_open, is_doubted, database, incarnation, nonce, machine, inode = _FENCE.unpack(
        data[: _FENCE.size]
    )
    return Fence(database, incarnation, nonce, Place(machine, inode), bool(is_open), bool(is_doubted))


class FenceFile(NamedTuple):
    """Where the fence of a database is kept, and the id (16 bytes) of the machine that this is."""

    path: Path
    machine: bytes

    @property
    def nowhere(self) -> Place:
        """The place of a fence that is not kept yet."""
        return Place(self.machine, 0)

    def read(self) -> tuple[Fence | None, Place | None]:
        """The fence, and the place where it was found. None for a file that is not there.

        Raises NoPermission, DiskFull or PillarboxError, as what the disk says.
        """
        try:
            with self.path.open("rb") as file:
                place = Place(self.machine, os.fstat(file.fileno()).st_ino)
                return decode(file.read(FENCE_BYTES + 1)), place
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise disk_error(error, str(self.path)) from error

    def write(self, fence: Fence) -> Fence:
        """Keep a fence, durably, as one of the place where it is; what is kept. Raises as `read`."""
        try:
            return self._write(fence)
        except OSError as error:
            raise disk_error(error, str(self.path)) from error

    def _write(self, fence: Fence) -> Fence:
        is_new = not self.path.exists()
        with self.path.open("xb") if is_new else self.path.open("r+b") as file:
            kept = fence._replace(place=Place(self.machine, os.fstat(file.fileno()).st_ino))
            file.write(encode(kept))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return kept
