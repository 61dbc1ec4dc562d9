"""The lock of a server for the time of a `with` block, which no interrupt leaves held.

A generator would keep the lock for as long as the traceback of an interrupt is kept: Python raises
KeyboardInterrupt also before the first step of what ends the block. So the blocks have turns (`turns`), and
the interpreter itself ends a turn whose block is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.engine.turns import Turn, TurnBlock, Watch
from pillarbox.store.engine.uninterrupted import Uninterrupted
from pillarbox.store.server_config import ServerConfig


class _EndsAtOnce(SimpleQueue[Any]):
    """Ends a turn whose block is gone, in the thread that the block was in: nobody else would."""

    def put(self, watch: Watch | None, block: bool = True, timeout: float | None = None) -> None:
        if watch is not None and watch.turn is not None:
            watch.turn.end()


class ServerLock(TurnBlock[Any]):
    """`take` gives the lock, which other processes and threads wait for; it is called in any thread."""

    def __init__(self, take: Callable[[], FileLock], uninterrupted: Uninterrupted) -> None:
        super().__init__(Turn(_EndsAtOnce()))
        self._take = take
        self._uninterrupted = uninterrupted

    def enter(self) -> Any:
        self._uninterrupted(self._take_and_keep)

    def _take_and_keep(self) -> None:
        self.turn.at_end = self._take().close
        if not self.turn.is_held:  # its caller was interrupted meanwhile
            self.turn.end()


class ServerChange(ServerLock):
    """The configuration as it is on disk, to be changed in the block: then written, under the lock.

    An exception in the block changes nothing.
    """

    def __init__(
        self,
        take: Callable[[], FileLock],
        uninterrupted: Uninterrupted,
        read: Callable[[], ServerConfig],
        write: Callable[[ServerConfig], None],
    ) -> None:
        super().__init__(take, uninterrupted)
        self._read = read
        self._write = write

    def enter(self) -> ServerConfig:
        super().enter()
        self._config = self._read()
        return self._config

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write(self._config)
        finally:
            self.turn.end()
