"""The state of connectors: what one end of a link says of it, and what others make of all that is said.

A connector that goes up and down all the time would move every tree each time. So it is stated late (after
30 s down, 10 s up), and one that changed more than three times in ten minutes counts as up until it rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, NamedTuple

DOWN_AFTER_MS: Final = 30_000
UP_AFTER_MS: Final = 10_000
OSCILLATING_WINDOW_MS: Final = 600_000
OSCILLATING_CHANGES: Final = 3
NEVER_MS: Final = 1 << 62
_NONE: Final[frozenset[str]] = frozenset()


class LinkState(IntEnum):
    """The state of a connector, as it is stated."""

    UP = 0
    DOWN = 1
    OSCILLATING = 2


@dataclass(frozen=True, slots=True)
class LinkWatch:
    """One end of a connector: what is seen of it, and the state that is stated.

    `changes_ms` are the times at which what is seen changed, within the last ten minutes.
    """

    stated: LinkState = LinkState.UP
    is_up: bool = True
    since_ms: int = 0
    changes_ms: tuple[int, ...] = ()

    def seen(self, is_up: bool, now_ms: int) -> LinkWatch:
        """The connector is seen up or down; nothing is stated by that yet."""
        if is_up == self.is_up:
            return self
        changes_ms = (*self._recent(now_ms), now_ms)
        return replace(self, is_up=is_up, since_ms=now_ms, changes_ms=changes_ms)

    def at(self, now_ms: int) -> LinkWatch:
        """The watch with the state that is to be stated now."""
        state, recent = self._state(now_ms), self._recent(now_ms)
        if state is self.stated and len(recent) == len(self.changes_ms):
            return self
        return replace(self, stated=state, changes_ms=recent)

    def due_ms(self) -> int:
        """The time at which another state may have to be stated; `NEVER_MS` when none changes by waiting."""
        if self.stated is LinkState.OSCILLATING:
            return self.changes_ms[-1] + OSCILLATING_WINDOW_MS
        if len(self.changes_ms) > OSCILLATING_CHANGES:
            return self.changes_ms[-1]
        if self.is_up == (self.stated is LinkState.UP):
            return NEVER_MS
        return self.since_ms + (UP_AFTER_MS if self.is_up else DOWN_AFTER_MS)

    def _state(self, now_ms: int) -> LinkState:
        if self.stated is LinkState.OSCILLATING and self.changes_ms:
            if now_ms < self.changes_ms[-1] + OSCILLATING_WINDOW_MS:
                return LinkState.OSCILLATING
        elif len(self._recent(now_ms)) > OSCILLATING_CHANGES:
            return LinkState.OSCILLATING
        if now_ms >= self.since_ms + (UP_AFTER_MS if self.is_up else DOWN_AFTER_MS):
            return LinkState.UP if self.is_up else LinkState.DOWN
        return LinkState.UP if self.stated is LinkState.OSCILLATING else self.stated

    def _recent(self, now_ms: int) -> tuple[int, ...]:
        if not self.changes_ms:
            return ()
        recent = tuple(each for each in self.changes_ms if now_ms < each + OSCILLATING_WINDOW_MS)
        # The last change says until when an oscillating connector rests.
        return recent or self.changes_ms[-1:] if self.stated is LinkState.OSCILLATING else recent


LAPSES_MS: Final = 660_000  # a statement that was not repeated twice; its maker may be gone


class Said(NamedTuple):
    """A statement of one end of a connector: its number there, and when it came."""

    number: int
    state: LinkState
    heard_ms: int


@dataclass
class StatedLinks:
    """The last statements of the ends of all connectors, in memory only: they are made again by themselves.

    Statements are numbered by their maker, and an older one that comes late changes nothing. One that is not
    repeated lapses: a store that dies with a connector would hold it down for ever.
    """

    said: dict[tuple[str, bytes], Said] = field(default_factory=dict)
    _down: dict[tuple[str, bytes], Said] = field(default_factory=dict)  # those of `said` that say so
    _counted: tuple[int, int, frozenset[str]] = 0, 0, _NONE  # what is down between two times

    def hear(self, connector: str, server: bytes, number: int, state: LinkState, now_ms: int) -> bool:
        """Take a statement; True when it is newer than the last one of its maker."""
        before = self.said.get((connector, server))
        if before is not None and number <= before.number:
            return False
        said = self.said[connector, server] = Said(number, state, now_ms)
        self._counted = 0, 0, _NONE
        self._down.pop((connector, server), None)
        if state is LinkState.DOWN:
            self._down[connector, server] = said
        return True

    def forget(self, server: bytes) -> None:
        """Forget what an end has stated: it begins anew, and knows nothing of it."""
        for said in (self.said, self._down):
            for key in [key for key in said if key[1] == server]:
                del said[key]
        self._counted = 0, 0, _NONE

    def down(self, now_ms: int) -> frozenset[str]:
        """The connectors that one of their ends states as down. An oscillating one counts as up."""
        if not self._down:
            return _NONE
        since_ms, until_ms, down = self._counted
        if not since_ms <= now_ms < until_ms:
            lasting = [name for (name, _), said in self._down.items() if now_ms < said.heard_ms + LAPSES_MS]
            down = frozenset(lasting)
            self._counted = now_ms, self.lapses_ms(now_ms), down
        return down

    def states(self, now_ms: int) -> Mapping[str, LinkState]:
        """The worst that is said of each connector, for the operator."""
        worst: dict[str, LinkState] = {}
        for (name, _), said in sorted(self.said.items()):
            state = said.state if now_ms < said.heard_ms + LAPSES_MS else LinkState.UP
            worst[name] = max(state, worst.get(name, LinkState.UP), key=_badness)
        return worst

    def lapses_ms(self, now_ms: int) -> int:
        """The next time at which a statement that counts against a connector lapses."""
        if not self._down:
            return NEVER_MS
        since_ms, until_ms, _ = self._counted
        if since_ms <= now_ms < until_ms:
            return until_ms
        lapses = [said.heard_ms + LAPSES_MS for said in self._down.values()]
        return min([each for each in lapses if each > now_ms], default=NEVER_MS)


def _badness(state: LinkState) -> int:
    return (LinkState.UP, LinkState.OSCILLATING, LinkState.DOWN).index(state)
