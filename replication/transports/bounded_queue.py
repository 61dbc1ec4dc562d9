"""Frames that wait for one peer, bounded in bytes. Not for several threads without a lock of theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pillarbox.replication.transports.transport import nothing


class _Waiting(NamedTuple):
    frame: bytes
    went: Callable[[], None]
    is_urgent: bool


class Urgent(NamedTuple):
    """A frame that goes before others, and what is to be called when it has gone."""

    frame: bytes
    went: Callable[[], None]


class BoundedQueue:
    """A queue of frames that remembers having refused one."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max` bounds the sum of frames that wait; a queue that is empty takes a longer one alone, and
        urgent ones have as much room again."""
        self._bytes_max = bytes_max
        self._bytes = 0
        self._frames: deque[_Waiting] = deque()
        self._is_begun = False
        self._has_refused = False

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False) -> bool:
        """Take a frame, and call `went` when it is let go; False when it does not fit.

        An urgent one passes all that are not, but the first where that is begun.
        """
        if self._frames and self._bytes + len(frame) > self._bytes_max * (1 + is_urgent):
            self._has_refused = True
            return False
        at = len(self._frames)
        if is_urgent:
            first = int(self._is_begun)
            at = next((k for k, each in enumerate(self._frames) if k >= first and not each.is_urgent), at)
        self._frames.insert(at, _Waiting(frame, went, is_urgent))
        self._bytes += len(frame)
        return True

    def next(self) -> bytes:
        """The first frame, which keeps its room until `took`. Raises IndexError when none waits."""
        return self._frames[0].frame

    def begin(self) -> bytes:
        """The first frame, which nothing passes any more, since it may be half written soon."""
        self._is_begun = True
        return self.next()

    def take_urgent(self) -> Urgent | None:
        """Take the first of the urgent frames that wait behind one which is begun and is none itself."""
        if not self._is_begun or len(self._frames) < 2:
            return None
        begun, waiting = self._frames[0], self._frames[1]
        if begun.is_urgent or not waiting.is_urgent:
            return None
        del self._frames[1]
        self._bytes -= len(waiting.frame)
        return Urgent(waiting.frame, waiting.went)

    def hand_on(self, give: Callable[[bytes, Callable[[], None]], bool]) -> bool:
        """Give the first frame, with what is to be called when it is let go, to who sends it; False where
        that does not take it."""
        waiting = self._frames[0]
        if not give(waiting.frame, waiting.went):
            return False
        self._let_first_go()
        return True

    def first(self, bytes_max: int) -> list[bytes]:
        """The frames at the front, of so many bytes, but at least one where one waits."""
        first: list[bytes] = []
        size_bytes = 0
        for frame, _, _ in self._frames:
            size_bytes += len(frame)
            if first and size_bytes > bytes_max:
                break
            first.append(frame)
        return first

    def took(self) -> bool:
        """Let the first frame go, and tell who gave it; True when one was refused before and it is worth
        trying again: half of the bound is free."""
        self._let_first_go().went()
        if self._has_refused and self._bytes <= self._bytes_max // 2:
            self._has_refused = False
            return True
        return False

    def _let_first_go(self) -> _Waiting:
        waiting = self._frames.popleft()
        self._bytes -= len(waiting.frame)
        self._is_begun = False
        return waiting
