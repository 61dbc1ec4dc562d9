"""Turns on a link: three classes, and round robin in each.

Without classes a backlog of old mail holds new mail up for as long as it lasts; with strict ones the lower
class would never move under load.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

from pillarbox.replication.wire.messages import Class

K = TypeVar("K", bound=Hashable)


WHEEL: Final = (*[Class.URGENT] * 8, *[Class.CHANGES] * 2, Class.ANSWERS)


class Turns(Generic[K]):
    """Keys that wait, each in one class. Of eleven turns eight are the first class's, two the second's, one
    the third's; a turn that its class does not need goes to the first one that does.
    """

    def __init__(self) -> None:
        self._waiting: dict[Class, dict[K, None]] = {each: {} for each in Class}
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, of: Class, key: K) -> None:
        """Let a key wait at the end of its class; one that waits already keeps its place."""
        self._waiting[of].setdefault(key)

    def drop(self, key: K) -> None:
        """Let a key wait no more."""
        for keys in self._waiting.values():
            keys.pop(key, None)

    def take(self) -> tuple[Class, K] | None:
        """Take the key whose turn it is; None when none waits."""
        if not any(self._waiting.values()):
            return None
        due = WHEEL[self._turn]
        self._turn = (self._turn + 1) % len(WHEEL)
        of = next(each for each in (due, *Class) if self._waiting[each])
        key = next(iter(self._waiting[of]))
        del self._waiting[of][key]
        return of, key

    def waiting(self, of: Class) -> Iterator[K]:
        """The keys that wait in a class, the next one first."""
        return iter(tuple(self._waiting[of]))
