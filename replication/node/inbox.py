"""All that waits for the thread of a node: put by any thread, taken by that one, bounded in bytes."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

T = TypeVar("T")
BYTES_MAX: Final = 8 << 20


class Inbox(Generic[T]):
    """A queue whose senders wait while too much is in it.

    Putting without a length takes no lock, so that the writer of a database may do it.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._room = threading.Condition()
        self._is_open = True
        self._items: SimpleQueue[tuple[T, int]] = SimpleQueue()

    def put(self, item: T) -> None:
        """Put something that takes no room; it never waits."""
        self._items.put((item, 0))

    def put_bytes(self, item: T, length: int) -> None:
        """Put something of so many bytes; returns when there is room for more, or the inbox is closed."""
        with self._room:
            self._bytes += length
            self._items.put((item, length))
            self._room.wait_for(lambda: self._bytes <= self._bytes_max or not self._is_open)

    def take(self, timeout_ms: int | None = 0) -> T | None:
        """The next thing, waited for if there is none: for so long, or with None for as long as it takes."""
        try:
            if timeout_ms == 0:
                item, length = self._items.get_nowait()
            else:
                item, length = self._items.get(timeout=None if timeout_ms is None else timeout_ms / 1000)
        except Empty:
            return None
        if length:
            with self._room:
                self._bytes -= length
                self._room.notify_all()
        return item

    def open(self) -> None:
        """Let senders wait for room from now on."""
        with self._room:
            self._is_open = True

    def close(self) -> None:
        """Let go of all who wait for room, and make nobody wait until it is opened again."""
        with self._room:
            self._is_open = False
            self._room.notify_all()
