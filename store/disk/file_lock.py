"""Lock files: one process at a time may write; the system lets go of its lock when that process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from pillarbox.store.clock import Clock
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import DiskFull, Retryable, WriterBusy

# A holder's word to others, in the file.
PASSING: Final = b"passing"
REPLACING: Final = b"replacing"
PASSING_WAIT_MS: Final = 120_000  # a replay of what lies between two checkpoints takes less
_TRY_AGAIN_MS: Final = 20
_LOOKED_AT_MS: Final = 1000  # to look takes microseconds, unless the process is stopped meanwhile


class FileLock:
    """A lock file held by this process. Close it to let go."""

    def __init__(self, path: Path, what: str, clock: Clock, *, wait_ms: int = 0, word: bytes = b"") -> None:
        """Take the lock, waiting up to `wait_ms`, and longer for one who is passing.

        `word` tells others what this process does: PASSING, that it lets go soon and by itself; REPLACING,
        that it exchanges the files, and writes none that others may read. Raises WriterBusy when another
        process holds it.
        """
        self._descriptor = -1
        self._word = word
        began_ms = clock.monotonic_ms()
        while not self._try(path):
            allowed_ms = wait_ms
            if _word_in(path) == PASSING:
                allowed_ms = max(wait_ms, PASSING_WAIT_MS)
            elif not is_locked(path):
                allowed_ms = max(wait_ms, _LOOKED_AT_MS)  # others have only looked whether it is
            if clock.monotonic_ms() >= began_ms + allowed_ms:
                raise WriterBusy(
                    f"{what} is being written by another process",
                    hint="wait until it has ended, or let that process make the change; reading is possible",
                )
            clock.sleep_ms(_TRY_AGAIN_MS)

    def _try(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, str(path)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        if not _is_at(path, descriptor):  # its holder removed the file before it let go
            os.close(descriptor)
            return self._try(path)
        self._descriptor = descriptor
        try:
            # What a process that was killed has left there is of no meaning: the system let go of its lock.
            if self._word or os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, 0)
            if self._word:
                self._tell(descriptor)
        except OSError as error:
            self.close()
            raise disk_error(error, str(path)) from error
        return True

    def _tell(self, descriptor: int) -> None:
        try:
            os.pwrite(descriptor, self._word, 0)
        except OSError as error:
            if not isinstance(disk_error(error, ""), DiskFull):
                raise
            # Reading goes on on a full disk: others wait for this process as for any, that is all.

    def close(self) -> None:
        """Let go. Closing twice is harmless."""
        if self._descriptor >= 0:
            # First forgotten: interrupted between the two, the file of another would be closed.
            descriptor, self._descriptor = self._descriptor, -1
            if self._word:
                with suppress(OSError):  # it means nothing any more
                    os.ftruncate(descriptor, 0)
            os.close(descriptor)

    def forget_inherited(self) -> None:
        """Close it in a process that was forked: lock and word are its parent's, and stay."""
        self._word = b""
        self.close()


def _word_in(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """True when some process holds the lock at `path`. Who takes the lock at this moment is not refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def is_held_to_write(path: Path) -> bool:
    """True when some process holds the lock at `path`, and not in order to replace the files."""
    return is_locked(path) and _word_in(path) != REPLACING


class Opening:
    """Held for a `with` block while a process opens the files in a directory to read, or exchanges them.

    `alone` is for who exchanges them: nobody opens them meanwhile. What is open already is not seen. Raises
    Retryable when the others take longer than `PASSING_WAIT_MS`; a disk error.
    """

    def __init__(self, directory: Path, clock: Clock, *, alone: bool = False) -> None:
        self._directory = directory
        self._clock = clock
        self._how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        self._descriptor = -1

    def __enter__(self) -> Opening:
        try:
            self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_error(error, str(self._directory)) from error
        until_ms = self._clock.monotonic_ms() + PASSING_WAIT_MS
        while not self._try():
            if self._clock.monotonic_ms() >= until_ms:
                self.__exit__()
                raise Retryable(
                    f"{self._directory}: another process exchanges the files in it",
                    hint="try again once that process has ended",
                )
            self._clock.sleep_ms(_TRY_AGAIN_MS)
        return self

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, self._how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)
