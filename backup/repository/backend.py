"""Where a repository's files lie: the contract that a directory, an object store and memory all keep.

A backend knows files, not what is in them. It promises little, so that almost any storage can keep it:
a file appears whole or not at all, a file that was acknowledged is durable (but for locks: who held them is
gone with the machine), and what one call wrote the next call of any process sees. Nothing above it ever
changes a file in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from pillarbox.backup.repository.damage import damaged_file
from pillarbox.store.errors import InvalidName


class FileKind(StrEnum):
    """The kinds of files of a repository; the value is the folder they lie in."""

    CONFIG = "config"
    KEY = "keys"
    PACK = "packs"
    INDEX = "index"
    SNAPSHOT = "snapshots"
    MADE = "made"
    REPORT = "reports"
    LOCK = "locks"


class FileInfo(NamedTuple):
    """One file as a listing shows it."""

    name: str
    size_bytes: int


_NAME: Final = re.compile(r"[0-9a-z][0-9a-z-]{0,127}")


def is_name(name: str) -> bool:
    """True when `name` is safe as a file name everywhere: 1 to 128 of a-z, 0-9 and the hyphen."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """`name` itself, when `is_name` holds.

    Raises: InvalidName otherwise, so that no name read from a repository leads out of it.
    """
    if not is_name(name):
        raise InvalidName(f"{name!r} cannot be the name of a file in a repository")
    return name


def check_range(kind: FileKind, name: str, data: bytes, offset: int, length: int | None) -> bytes:
    """`data`, read from `offset`, when it is all that was asked for. Raises Corrupt when it is less."""
    if length is not None and len(data) != length:
        file = f"{kind}/{name}"
        raise damaged_file(f"{file} ends before byte {offset + length}", file=file, offset=offset + len(data))
    return data


class Backend(Protocol):
    """Storage of one repository. All methods may be called from several threads at once.

    Every method raises Retryable (mostly PeerUnreachable) when the same call may succeed later, NoPermission
    when the storage forbids it, and InvalidName for a name that `check_name` refuses.
    """

    def put(self, kind: FileKind, name: str, data: bytes, *, must_not_exist: bool = False) -> None:
        """Store a whole file. When this returns the file is durable; until then it is not to be seen.

        An existing file of that name is replaced in one step, or, with `must_not_exist`, left alone.
        Raises: AlreadyExists, DiskFull.
        """
        ...

    def get(self, kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Exactly `length` bytes from `offset`, or all from there on; `offset` lies inside the file.

        Raises: NotFound when there is no such file, Corrupt when it ends before `offset + length`.
        """
        ...

    def list(self, kind: FileKind) -> Iterator[FileInfo]:
        """The files of a kind, in no order, without those whose names are not ours (`is_name`).

        A file that comes or goes meanwhile may be listed or not.
        """
        ...

    def size(self, kind: FileKind, name: str) -> int:
        """The size of a file in bytes. Raises: NotFound."""
        ...

    def delete(self, kind: FileKind, name: str) -> None:
        """Remove a file. To remove what is not there is no error, so that a retry is safe."""
        ...

    def remove_leftovers(self) -> None:
        """Remove what interrupted calls of `put` left behind. Only while nobody else writes."""
        ...
