"""All that waits for the thread of a node: put by any thread, taken by that one, bounded in bytes."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

T = TypeVar("T")
BYTES_MAX: Final = 8 << 20


class Inbox(Generic[T]):
    """A queue whose senders wait while too much is in it.

    Putting without a length takes no lock, so that the writer of a database may do it. What is urgent passes
    all else that has a length.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._room = threading.Condition()
        self._is_open = True
        self._items: SimpleQueue[tuple[T, int] | None] = SimpleQueue()  # None: one that is urgent
        self._urgent: deque[tuple[T, int]] = deque()
        self._passed: deque[tuple[T, int]] = deque()  # taken from the queue, and passed by an urgent one

    def put(self, item: T) -> None:
        """Put something that takes no room; it never waits."""
        self._items.put((item, 0))

    def put_bytes(self, item: T, length: int, is_urgent: bool = False) -> None:
        """Put something of so many bytes; returns when there is room for more, or the inbox is closed."""
        with self._room:
            self._bytes += length
            if is_urgent:
                self._urgent.append((item, length))
            self._items.put(None if is_urgent else (item, length))
            self._room.wait_for(lambda: self._bytes <= self._bytes_max or not self._is_open)

    def take(self, timeout_ms: int | None = 0) -> T | None:
        """The next thing, waited for if there is none: for so long, or with None for as long as it takes."""
        found = self._next(timeout_ms)
        if found is None:
            return None
        item, length = found
        if length:
            with self._room:
                self._bytes -= length
                self._room.notify_all()
        return item

    def _next(self, timeout_ms: int | None) -> tuple[T, int] | None:
        """The next thing with its length. Links and bells keep their place; of what has a length the urgent
        comes first.
        """
        while True:
            if self._urgent and self._passed:
                return self._urgent.popleft()
            if self._passed:
                return self._passed.popleft()
            try:
                if timeout_ms == 0:
                    found = self._items.get_nowait()
                else:
                    found = self._items.get(timeout=None if timeout_ms is None else timeout_ms / 1000)
            except Empty:
                return None
            if found is None:
                if self._urgent:
                    return self._urgent.popleft()
                if timeout_ms != 0:  # it was taken before its turn: the caller knows how long to wait now
                    return None
            elif found[1] and self._urgent:
                self._passed.append(found)
            else:
                return found

    def open(self) -> None:
        """Let senders wait for room from now on."""
        with self._room:
            self._is_open = True

    def close(self) -> None:
        """Let go of all who wait for room, and make nobody wait until it is opened again."""
        with self._room:
            self._is_open = False
            self._room.notify_all()
