"""Every error of the project: one root, what to do next, and one exit code a class.

A caller tells families apart by class (`Retryable`, `Refused`, `Corrupt`, `NotFound`, `Conflict`), never
by text. Exit codes are never reused: a retired class keeps its number in `RETIRED_EXIT_CODES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

RETIRED_EXIT_CODES: frozenset[int] = frozenset({53})


class PillarboxError(Exception):
    """Root of every error Pillarbox raises on purpose.

    `hint` says what a person can do next; `exit_code` is what the command line ends with.
    """

    exit_code = 9
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def anew(self) -> Self:
        """An error that says the same, for a reason that is kept and told again.

        One instance raised again would carry the tracebacks of all that were told before.
        """
        return copy(self)


class Retryable(PillarboxError):
    """The same call may succeed later, unchanged."""

    exit_code = 10
    retryable = True


class WriterBusy(Retryable):
    """Another process writes this database, server or repository."""

    exit_code = 11


class DiskFull(Retryable):
    """The disk, or the reserve kept free on it, is full; nothing of the call was kept."""

    exit_code = 12


class PeerUnreachable(Retryable):
    """A remote store, node or service did not answer."""

    exit_code = 13


class Refused(PillarboxError):
    """The call is understood and will not be done. `folders` are the paths of all public folders that stand
    in the way, of which the message may name some; empty where none does."""

    exit_code = 20

    def __init__(self, message: str, *, hint: str = "", folders: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.folders = tuple(folders)


class Dismounted(Refused):
    """The database is not mounted, or was dismounted while the call waited."""

    exit_code = 21


class ReadOnly(Refused):
    """The database was opened for reading only."""

    exit_code = 22


class OverLimit(Refused):
    """A size limit of DOMAIN.md "Limits" forbids it: a permanent failure for the sender."""

    exit_code = 23


class AccessDenied(Refused):
    """The actor has no right to do this."""

    exit_code = 24


class UnsupportedVersion(Refused):
    """A file has a format version this program does not know."""

    exit_code = 25


class InvalidName(Refused):
    """A name is empty, too long or holds characters that names must not hold."""

    exit_code = 26


class InvalidSetting(Refused):
    """A setting is not of its type or outside its range."""

    exit_code = 27


class RecoveryNeeded(Refused):
    """The database was not closed cleanly and must be mounted for writing before it is read."""

    exit_code = 28


class InvalidContent(Refused):
    """Bytes given from outside are not what they claim to be (an archive, a repository, a stream)."""

    exit_code = 29


class Corrupt(PillarboxError):
    """Stored bytes are not what was written. Says which file, table or key, and what was found."""

    exit_code = 30

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        offset: int = -1,
        table: str = "",
        key: bytes = b"",
        hint: str = "",
    ) -> None:
        super().__init__(
            message, hint=hint or "run `pillarbox check` to see all of the damage, then `pillarbox repair`"
        )
        self.file = file
        self.offset = offset
        self.table = table
        self.key = key


class NotFound(PillarboxError):
    """The object that was named does not exist."""

    exit_code = 40


class Conflict(PillarboxError):
    """Something that exists already stands in the way."""

    exit_code = 50


class AlreadyExists(Conflict):
    """Something of that name or identity is there."""

    exit_code = 51


class NotEmpty(Conflict):
    """It holds something and is only deleted with its contents when asked so."""

    exit_code = 52


class Incomplete(PillarboxError):
    """The call did all but what its message names."""

    exit_code = 54


class InvalidArgument(Refused):
    """A call of the library was given a value that its parameter cannot have; `argument` is its name."""

    exit_code = 59

    def __init__(self, message: str, *, argument: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.argument = argument


class NoPermission(Refused):
    """The system forbids this process a file, or an object store its objects."""

    exit_code = 56


class TooManyMessages(Refused):
    """One transaction may not copy so many messages."""

    exit_code = 57


class NoReplica(Refused):
    """The store has no replica of the public folder that would do; `databases` are the GUIDs of others."""

    exit_code = 58

    def __init__(self, message: str, *, databases: tuple[bytes, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.databases = databases


class WrongKey(Refused):
    """No key of the backup repository opens with the passphrase or key file that was given."""

    exit_code = 61


class RepositoryLocked(Retryable):
    """Another process holds a lock on the backup repository, or this one's lock was taken from it."""

    exit_code = 62
