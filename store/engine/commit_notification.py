"""Commit notification: a database has advanced to a change number; threads and event loops wait for it.

A hint and nothing more: whoever is woken asks the change feed, which is the truth. Nobody is called from
inside a commit. The writer puts None into the bells of those who wait, each of which is heard in a thread or
event loop of its own, and takes no lock that an interrupted thread could hold.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from pillarbox.store.clock import Clock
from pillarbox.store.errors import PillarboxError
from pillarbox.store.ids import LOCAL_BASE


class Bell(Protocol):
    """Wakes one who waits. It raises nothing, since the writer rings it."""

    def put(self, item: None) -> None:
        """Ring: something has changed, or nothing will any more."""
        ...


class CommitNotification:
    """The progress of one mounted database, and the callers who wait for more. Any thread may call it.

    `cn` is the last change number that is durable and visible.
    """

    def __init__(self, counter: int) -> None:
        self.cn = LOCAL_BASE | counter
        self._bells: list[Bell] = []
        self._reason: PillarboxError | None = None

    def advance(self, counter: int) -> None:
        """Wake all who wait, when the database has advanced. For the writer."""
        cn = LOCAL_BASE | counter
        if cn != self.cn:
            self.cn = cn
            self._ring()

    def end(self, reason: PillarboxError) -> None:
        """Wake all who wait: the database is dismounted, and they raise the reason."""
        self._reason = reason
        self._ring()

    def _ring(self) -> None:
        # In this order, behind the change of `cn`: a bell that is hung too late for this finds the new `cn`.
        bells, self._bells = self._bells, []
        while bells:
            bells.pop().put(None)

    def has_passed(self, after: int) -> bool:
        """True when there is a change number above `after`. Raises Dismounted once the database is."""
        if self._reason is not None:
            raise self._reason.anew()
        return self.cn > after

    def hang(self, bell: Bell) -> None:
        """Ring a bell once, at the next change. Call `has_passed` after it: the change may just have come."""
        self._bells.append(bell)

    def take_down(self, bell: Bell) -> None:
        """Forget a bell that was not rung; one that was is forgotten already."""
        with suppress(ValueError):
            self._bells.remove(bell)

    def wait(self, after: int, timeout_ms: int | None, clock: Clock) -> int:
        """Block until there is a change number above `after`, or for so long; the last one there is.

        Raises Dismounted. Interrupted, it leaves nothing behind.
        """
        bell: SimpleQueue[None] = SimpleQueue()
        until_ms = None if timeout_ms is None else clock.monotonic_ms() + timeout_ms
        try:
            while True:
                self.hang(bell)
                if self.has_passed(after):
                    return self.cn
                try:
                    bell.get(timeout=None if until_ms is None else _left_s(until_ms, clock))
                except Empty:
                    return self.cn
        finally:
            self.take_down(bell)


def _left_s(until_ms: int, clock: Clock) -> float:
    return max(until_ms - clock.monotonic_ms(), 0) / 1000
