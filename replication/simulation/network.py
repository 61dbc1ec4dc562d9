"""A network that promises nothing: it delays, loses, doubles and reorders, and sites are cut off from each
other.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from pillarbox.replication.core.broadcasting import OBJECT_BYTES, bytes_of
from pillarbox.replication.wire.messages import BackfillRequest, Changes, Message, ReconcileAnswer
from pillarbox.store.change_number import ChangeNumber

LOCAL_DELAY_MS = (1, 20)
LINK_DELAY_MS = (30, 400)
LATE_MS = 90_000  # how much later a message may come that overtakes none


@dataclass
class Link:
    """One direction between two sites: how fast it is, until when it is cut, and what went over it."""

    bytes_per_ms: float
    cut_until_ms: int = 0
    busy_until_ms: int = 0
    messages: int = 0
    content_bytes: int = 0
    distinct_bytes: int = 0
    seen: set[tuple[bytes, ChangeNumber]] = field(default_factory=set)

    def carry(self, message: Message) -> int:
        """Count a message; its bytes. Distinct are those of a store's first copy of a change."""
        content_bytes = content_of(message)
        numbers = {(message.to, number) for number in carried(message)}
        self.messages += 1
        self.content_bytes += content_bytes
        if not numbers <= self.seen:
            self.distinct_bytes += content_bytes
            self.seen |= numbers
        return content_bytes


@dataclass
class Network:
    """Decides for each message when it arrives, how often, or that it does not."""

    rng: random.Random
    loss: float = 0.1
    doubled: float = 0.05
    late: float = 0.1
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def arrivals(self, message: Message, sites: tuple[str, str], now_ms: int) -> list[int]:
        """The times at which the message arrives; none when it is lost."""
        link = self.links.setdefault(sites, Link(1000.0 if sites[0] == sites[1] else 100.0))
        if now_ms < link.cut_until_ms:
            self.faults["cut"] += 1
            return []
        content_bytes = link.carry(message)
        low, high = LOCAL_DELAY_MS if sites[0] == sites[1] else LINK_DELAY_MS
        begins_ms = max(now_ms, link.busy_until_ms)
        link.busy_until_ms = begins_ms + int((content_bytes + OBJECT_BYTES) / link.bytes_per_ms)
        if self.rng.random() < self.loss:
            self.faults["loss"] += 1
            return []
        copies = 1
        if self.rng.random() < self.doubled:
            self.faults["doubled"] += 1
            copies = 2
        return [link.busy_until_ms + self._delay_ms(low, high) for _ in range(copies)]

    def _delay_ms(self, low: int, high: int) -> int:
        if self.rng.random() < self.late:
            self.faults["reordered"] += 1
            return self.rng.randint(high, LATE_MS)
        return self.rng.randint(low, high)

    def calm(self) -> None:
        """From now on the network loses, doubles and delays nothing, and no link is cut or slow."""
        self.loss = self.doubled = self.late = 0.0
        for link in self.links.values():
            link.cut_until_ms, link.bytes_per_ms = 0, max(link.bytes_per_ms, 100.0)


def carried(message: Message) -> list[ChangeNumber]:
    """The numbers of the versions that a message carries."""
    body = message.body
    if isinstance(body, Changes | ReconcileAnswer):
        return [number for _, versions in body.objects for number in versions.siblings]
    return []


def content_of(message: Message) -> int:
    """Count the bytes of changed objects in a message."""
    body = message.body
    if isinstance(body, Changes | ReconcileAnswer):
        return sum(bytes_of(versions) for _, versions in body.objects)
    return 8 * body.needed.intervals_count() if isinstance(body, BackfillRequest) else 0
