"""The names of a database's mailboxes in a small file outside of it, to be asked while it is not mounted.

The tables of the database are the truth. The file holds every name that they hold, and after an interruption
perhaps more: a name is added before the transaction that gives it is durable, and removed after the one that
takes it away is. A mount for writing makes the file exact (docs/format.md, "Mailbox names").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_hexdigest

from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.disk.stream import disk_error, flush_directory
from pillarbox.store.errors import Corrupt, NotFound, PillarboxError, UnsupportedVersion

NAMES_MAGIC: Final = b"PBNAMES"
NAMES_VERSION: Final = 1
_ADDED: Final = b"+"
_REMOVED: Final = b"-"


class MailboxNames:
    """The file of one database. Only the process that has the database mounted for writing changes it."""

    def __init__(self, path: Path, database: bytes) -> None:
        """`database` is its GUID. Nothing is opened yet."""
        self._path = path
        self._database = database
        self._seed = int.from_bytes(database[:8], "little")
        self._last: tuple[tuple[int, int, int], Mapping[bytes, bytes]] | None = None

    def read(self) -> Mapping[bytes, bytes]:
        """The GUIDs of the mailboxes by the name key of each; the file is read when it has changed.

        Raises NotFound while the names are not known; Corrupt, UnsupportedVersion, or a disk error.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if (last := self._last) is not None and last[0] == stamp:
                return last[1]
            data = self._path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{self._path} is missing") from error
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        names = self._parse(data)
        self._last = (stamp, names)  # at once: other threads read, too
        return names

    def is_known(self) -> bool:
        """True when the file tells the names."""
        try:
            self.read()
        except PillarboxError:
            return False
        return True

    def replace(self, names: Mapping[bytes, bytes]) -> None:
        """Make the file say exactly `names`, durably; one that says so already is left alone.

        Raises UnsupportedVersion for a file of a later version, DiskFull, PillarboxError.
        """
        wanted = self._header() + b"".join(self._line(_ADDED, *row) for row in sorted(names.items()))
        try:
            present = self._path.read_bytes() if self._path.exists() else b""
            if present == wanted:
                return
            self._refuse_later_version(present.partition(b"\n")[0])
            if not self._path.parent.is_dir():
                self._path.parent.mkdir(exist_ok=True)
                flush_directory(self._path.parent.parent)
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        write_atomically(self._path, wanted)

    def add(self, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Add (name key, GUID) of mailboxes, durably. Raises DiskFull, PillarboxError.

        A file that is missing stays so: names that are not known do not become known by one more.
        """
        self._append(b"".join(self._line(_ADDED, key, guid) for key, guid in names))

    def remove(self, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Remove (name key, GUID) of mailboxes that have that name no more. Raises as `add`."""
        self._append(b"".join(self._line(_REMOVED, key, guid) for key, guid in names))

    def forget(self) -> None:
        """Make the names unknown, durably, until `replace`: before other files take the database's place.

        Raises PillarboxError.
        """
        try:
            if self._path.exists():
                self._path.unlink()
                flush_directory(self._path.parent)
        except OSError as error:
            raise disk_error(error, str(self._path)) from error

    def _append(self, lines: bytes) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        try:
            end = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)  # the next line would else go on in the middle of this one
                raise
        except OSError as error:
            raise disk_error(error, str(self._path)) from error
        finally:
            os.close(descriptor)

    # -- lines

    def _header(self) -> bytes:
        return self._sealed(b"%s %d %s" % (NAMES_MAGIC, NAMES_VERSION, self._database.hex().encode()))

    def _line(self, sign: bytes, key: bytes, guid: bytes) -> bytes:
        return self._sealed(b"%s %s %s" % (sign, guid.hex().encode(), key.hex().encode()))

    def _sealed(self, text: bytes) -> bytes:
        return b"%s %s\n" % (text, xxh3_64_hexdigest(text, self._seed).encode())

    def _parse(self, data: bytes) -> dict[bytes, bytes]:
        *whole, tail = data.split(b"\n")
        header, *lines = whole or [b""]
        self._refuse_later_version(header)
        if header + b"\n" != self._header():
            raise Corrupt(
                f"{self._path}: not the mailbox names of this database", file=str(self._path), offset=0
            )
        # An interrupted addition has no line feed, and nobody was told of it; another byte there is damage.
        if self._holds(tail[:-1]):
            raise Corrupt(f"{self._path}: a line does not end", file=str(self._path), offset=len(data) - 1)
        names: dict[bytes, bytes] = {}
        offset = len(header) + 1
        for line in lines:
            sign, guid, key = self._fields(line, offset)
            if sign == _ADDED:
                names[key] = guid
            elif names.get(key) == guid:
                del names[key]
            offset += len(line) + 1
        return names

    def _fields(self, line: bytes, offset: int) -> tuple[bytes, bytes, bytes]:
        if not self._holds(line):
            raise Corrupt(f"{self._path}: a line does not hold", file=str(self._path), offset=offset)
        sign, guid, key, _ = line.split(b" ")
        return sign, bytes.fromhex(guid.decode()), bytes.fromhex(key.decode())

    def _holds(self, line: bytes) -> bool:
        return self._sealed(line.rpartition(b" ")[0]) == line + b"\n"

    def _refuse_later_version(self, header: bytes) -> None:
        magic, _, rest = header.partition(b" ")
        version = rest.partition(b" ")[0]
        if magic == NAMES_MAGIC and version.isdigit() and int(version) > NAMES_VERSION:
            raise UnsupportedVersion(
                f"{self._path}: mailbox names of version {int(version)}; this program knows {NAMES_VERSION}",
                hint="use a newer program",
            )
