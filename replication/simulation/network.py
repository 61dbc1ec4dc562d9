"""A network that promises nothing: it delays, loses, doubles and reorders, and sites are cut off from each
other.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from pillarbox.replication.core.packing import OBJECT_BYTES, bytes_of
from pillarbox.replication.core.preset import SECOND_MS
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Changes,
    Hello,
    HelloAnswer,
    Message,
    ReconcileAnswer,
)
from pillarbox.store.change_number import ChangeNumber

LOCAL_DELAY_MS = (1, 20)
LINK_DELAY_MS = (30, 400)
LONG_DRAIN_MS = 30 * 60_000
_CARRIES: Final = (Changes, ReconcileAnswer)
_HELLOS: Final = (Hello, HelloAnswer)
LATE_MS = 90_000  # how much later a message may come that overtakes none


Carried: TypeAlias = tuple[ObjectId, ChangeNumber]
"""A version that travels, by its folder and number."""


class Freight(NamedTuple):
    """Something that travels: the bytes of content in it, and those of each version that it carries.

    A frame is so small that no link makes it wait.
    """

    content_bytes: int
    versions: Mapping[Carried, int]
    is_frame: bool = False
    is_hello: bool = False

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Freight:
        """The freight that messages are, together."""
        messages = tuple(messages)
        versions = {
            (each.folder, number): OBJECT_BYTES + size_bytes
            for each in messages
            for number, size_bytes in carried(each).items()
        }
        is_hello = any(isinstance(each.body, _HELLOS) for each in messages)
        return cls(sum(content_of(each) for each in messages), versions, is_hello=is_hello)


FRAME = Freight(0, {}, is_frame=True)


IsHad: TypeAlias = Callable[[Carried], bool]
IsHadBehind: TypeAlias = Callable[[str, str, Carried], bool]


class Journey(NamedTuple):
    """When the links have taken something, and when it arrives, as often as it does.

    A connection over several links takes what the slowest of them lets through.
    """

    sent_ms: int
    arrives_ms: tuple[int, ...]


@dataclass
class Link:
    """One direction between two sites: how fast it is, until when it is cut, from when to when it has
    something to carry, and what went over it.

    `crossings` counts how often versions crossed, `distinct` those that crossed at all. `lost_bytes` are of
    those that had to cross again: what carried them was lost, or who had got them.
    """

    bytes_per_ms: float
    cut_until_ms: int = 0
    busy_since_ms: int = 0
    busy_until_ms: int = 0
    messages: int = 0
    content_bytes: int = 0
    distinct_bytes: int = 0
    crossings: int = 0
    lost_bytes: int = 0
    distinct: dict[Carried, int] = field(default_factory=dict)  # until when each is on its way

    def carry(self, freight: Freight, now_ms: int, is_had: IsHad) -> int:
        """Count what goes over the link; the time at which the link has taken it."""
        self.messages += 1
        self.content_bytes += freight.content_bytes
        self.crossings += len(freight.versions)
        for version, version_bytes in freight.versions.items():
            if version not in self.distinct:
                self.distinct_bytes += version_bytes
            elif self.distinct[version] < now_ms and not is_had(version):
                self.lost_bytes += version_bytes
            self.distinct[version] = max(now_ms, self.distinct.get(version, 0))
        if now_ms - self.busy_until_ms > SECOND_MS:
            self.busy_since_ms = now_ms
        begins_ms = max(now_ms, self.busy_until_ms)
        self.busy_until_ms = begins_ms + int((freight.content_bytes + OBJECT_BYTES) / self.bytes_per_ms)
        return self.busy_until_ms


@dataclass
class Network:
    """Decides for each thing that travels when it arrives, how often, or that it does not."""

    rng: random.Random
    loss: float = 0.1
    doubled: float = 0.05
    late: float = 0.1
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def link(self, one: str, other: str) -> Link:
        """The direction from one site to another, or within a site."""
        link = self.links.get((one, other))
        if link is None:
            link = self.links[one, other] = Link(1000.0 if one == other else 100.0)
        return link

    def travel(
        self, freight: Freight, path: Sequence[str], now_ms: int, is_had: IsHadBehind = lambda *_: False
    ) -> Journey:
        """Let something travel along sites; within one, the path is that site alone.

        `is_had` says whether some store behind a link has a version, which need not cross it then.
        """
        sent_ms, at_ms = now_ms, now_ms
        hops = list(pairwise(path)) or [(path[0], path[0])]
        for one, other in hops:
            link = self.link(one, other)
            if at_ms < link.cut_until_ms:
                self.faults["cut"] += 1
                return Journey(sent_ms, ())
            taken_ms = at_ms if freight.is_frame else link.carry(freight, at_ms, partial(is_had, one, other))
            if not freight.is_frame and taken_ms - link.busy_since_ms > LONG_DRAIN_MS:
                self.faults["drain over 30 minutes"] += 1
            sent_ms = taken_ms
            at_ms = taken_ms + (0 if one == other else LINK_DELAY_MS[0])
        low, high = LOCAL_DELAY_MS if len(path) == 1 else LINK_DELAY_MS
        if freight.is_hello:
            return Journey(sent_ms, (at_ms + self.rng.randint(low, high),))
        if self.rng.random() < self.loss:
            self.faults["loss"] += 1
            return Journey(sent_ms, ())
        copies = 1
        if self.rng.random() < self.doubled:
            self.faults["doubled"] += 1
            copies = 2
        arrives_ms = tuple(at_ms + self._delay_ms(low, high) for _ in range(copies))
        for hop in hops if freight.versions else ():
            self.link(*hop).distinct.update(dict.fromkeys(freight.versions, max(arrives_ms)))
        return Journey(sent_ms, arrives_ms)

    def drained_ms(self) -> int:
        """The time at which all that was sent so far has gone over the links; 0 or the past when it has."""
        return max((link.busy_until_ms for link in self.links.values()), default=0)

    def _delay_ms(self, low: int, high: int) -> int:
        if self.rng.random() < self.late:
            self.faults["reordered"] += 1
            return self.rng.randint(high, LATE_MS)
        return self.rng.randint(low, high)

    def calm(self) -> None:
        """From now on the network loses, doubles and delays nothing. Links that are slow stay so."""
        self.loss = self.doubled = self.late = 0.0


def carried(message: Message) -> dict[ChangeNumber, int]:
    """The numbers of the versions that a message carries, and the bytes of their contents."""
    body = message.body
    if not isinstance(body, _CARRIES):
        return {}
    return {
        number: getattr(version, "size_bytes", 0)
        for _, versions in body.objects
        for number, version in versions.siblings.items()
    }


def content_of(message: Message) -> int:
    """Count the bytes of changed objects in a message."""
    body = message.body
    if isinstance(body, _CARRIES):
        return sum(bytes_of(versions) for _, versions in body.objects)
    return 8 * body.needed.intervals_count() if isinstance(body, BackfillRequest) else 0
