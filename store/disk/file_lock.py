"""Who may write: one process at a time holds a lock file; the system lets go of it when that process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pillarbox.store.clock import Clock
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import WriterBusy

_TRY_AGAIN_MS = 20


class FileLock:
    """A lock file held by this process. Close it to let go."""

    def __init__(self, path: Path, what: str, clock: Clock, *, wait_ms: int = 0) -> None:
        """Take the lock, waiting up to `wait_ms`. Raises WriterBusy when another process holds it."""
        self._descriptor = -1
        deadline_ms = clock.monotonic_ms() + wait_ms
        while not self._try(path):
            if clock.monotonic_ms() >= deadline_ms:
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
        self._descriptor = descriptor
        return True

    def close(self) -> None:
        """Let go. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at `path`."""
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
