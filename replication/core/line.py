"""The line to one neighbour site: whose turn it is, what is on its way, and who there takes it.

A bundle counts as handed over when a server of the site gives its receipt, never when a transport has
accepted it. Who gives none in ten seconds, and no other answer, is silent for five minutes, and the same copy
goes to the next server; over a slow line it is waited for longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from pillarbox.replication.core.effects import AnswerKey
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.core.turns import Turns
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Bundle, BundleKey
from pillarbox.store.change_number import CNSet

FLIGHTS_MAX: Final = 2
URGENT_FLIGHTS_MAX: Final = 4
"""Urgent changes that may be under way beside these: they wait for no more than the frame that is being
written, which takes seconds over a slow link."""
RECEIPT_MS: Final = 10_000
ASKS_MS: Final = (5_000, 7_500)
"""The times at which a server is asked whether it took a copy, as its receipt may be lost; the later ones
double."""
LATE_MS: Final = 90_000
"""A copy that its server has not got is waited for so long: in a network that holds some up it comes yet."""
DENIALS_MAX: Final = 2
"""A copy that a server never has goes to it no more: it is lost each time, or refused as it comes."""
SILENT_MS: Final = 300_000
PACKED_PART_MIN: Final = 1 / 16  # so that one bundle takes no more than 5 MB of memory
TAKEN_MS_MAX: Final = 3_600_000  # a transport that has not said for so long that the link took a copy


class Kind(IntEnum):
    """The kinds of what waits for its turn."""

    CHANGES = 0  # of a folder, by its marks
    STATUS = 1  # of a folder
    COPY = 2  # of somebody else's bundle
    LINK = 3  # the state of a connector, by its name
    REST = 4  # the site's sums, for all sites behind
    PAGE = 5  # the next one of an answer


class Item(NamedTuple):
    """One thing that waits for its turn: a mark, so that a later one for the same folder needs no place."""

    kind: Kind
    key: ObjectId | BundleKey | AnswerKey | str


@dataclass
class Flight:
    """A bundle on its way: the server that is to take it, and the marks that its receipt takes away.

    `to` is empty while all servers of the site are silent. `given_ms` is when the transport got it, `sent_ms`
    when the link had taken it, `given` who got it so far, each when. Its receipt is waited for at least
    `patience_ms`. One that `is_beside` has a place that only urgent changes have. While it `is_asking` the
    bundle itself does not go: one who was given it is asked whether it has it. One that `is_denied` did not
    come while its server said so, `denials` are how often that was so at each.
    """

    bundle: Bundle
    hops: int
    numbers: Mapping[ObjectId, CNSet] = field(default_factory=dict)
    to: bytes = b""
    given_ms: int = 0
    sent_ms: int = NEVER_MS
    behind_ms: int = 0
    content_bytes: int = 0
    given: dict[bytes, int] = field(default_factory=dict)
    patience_ms: int = RECEIPT_MS
    is_beside: bool = False
    is_asking: bool = False
    is_denied: bool = False
    denials: dict[bytes, int] = field(default_factory=dict)
    asks: int = 0

    def overdue_ms(self) -> int:
        """The time at which its receipt is overdue.

        Of a copy that took the link long it is waited for as long again: another copy would take as much.
        """
        if self.is_asking:
            return self.given_ms + RECEIPT_MS
        if self.sent_ms == NEVER_MS:
            return self.given_ms + TAKEN_MS_MAX
        return self.sent_ms + max(self.patience_ms, min(self.sent_ms - self.given_ms, SILENT_MS))

    def denied(self) -> None:
        """Its server has not got it, so that is there: the copy is late, or was lost. It is waited for while
        its server says so each time it is asked."""
        answered_ms = self._asked_after_ms() + RECEIPT_MS
        self.is_denied = answered_ms >= LATE_MS
        self.patience_ms = max(self.patience_ms, min(answered_ms, LATE_MS))

    def is_refused_by(self, server: bytes) -> bool:
        """True when a server has denied it so often that it gets it no more."""
        return self.denials.get(server, 0) >= DENIALS_MAX

    def _asked_after_ms(self) -> int:
        later = max(0, self.asks + 1 - len(ASKS_MS))
        return ASKS_MS[self.asks] if not later else ASKS_MS[-1] << later

    def ask_ms(self) -> int:
        """The next time at which its server is asked whether it took it."""
        asks_ms = (self.given_ms if self.is_asking else self.sent_ms) + self._asked_after_ms()
        return asks_ms if self.to and asks_ms < self.overdue_ms() else NEVER_MS


@dataclass
class Line:
    """All that waits for one neighbour site, and the servers there that were silent, each until when.

    Pages of answers take their turns with bundles, and wait for no receipt: `pages` are those that the link
    has not taken yet. A store's own site has a line for these alone. `packed_part` is the part of a bundle's
    content that is left of it when it is packed, of late, `slowest_ms` the longest time after which a receipt
    came, of late. It `gives_receipts` until no server is left to try, and again from the next receipt on, or
    when nothing of then is on its way any more.
    """

    site: str
    turns: Turns[Item] = field(default_factory=Turns)
    flights: dict[BundleKey, Flight] = field(default_factory=dict)
    pages: set[AnswerKey] = field(default_factory=set)
    silent: dict[bytes, int] = field(default_factory=dict)
    packed_part: float = 1.0
    slowest_ms: int = 0
    gives_receipts: bool = True

    def has_room(self) -> bool:
        """True when another bundle or page may be made: two on their way keep the link busy and memory
        flat."""
        return len(self.flights) - self._beside_count() + len(self.pages) < FLIGHTS_MAX

    def has_urgent_room(self) -> bool:
        """True when a bundle of urgent changes may be made beside these; for a line that is cut none is."""
        return self._beside_count() < URGENT_FLIGHTS_MAX and not self.is_cut()

    def _beside_count(self) -> int:
        return sum(flight.is_beside for flight in self.flights.values())

    def stalled(self) -> list[Flight]:
        """The flights that wait since all servers of the site are silent."""
        return [flight for flight in self.flights.values() if not flight.to]

    def is_cut(self) -> bool:
        """True while something waits for a site of which no server gives receipts: seen from here it is down.

        That a silent server is tried again shows nothing: else the line would come and go with each try.
        """
        return not self.gives_receipts and bool(self.flights)

    def in_flight(self, folder: ObjectId) -> CNSet:
        """The numbers of a folder that are on their way."""
        numbers = CNSet()
        for flight in self.flights.values():
            numbers |= flight.numbers.get(folder, CNSet())
        return numbers

    def aim(self, flight: Flight, servers: Sequence[bytes], now_ms: int) -> bool:
        """Choose the server that a flight goes to next, the first of `servers` that is not silent and did not
        deny it too often; False when there is none.
        """
        self.silent = {server: until_ms for server, until_ms in self.silent.items() if until_ms > now_ms}
        may_take = (each for each in servers if each not in self.silent and not flight.is_refused_by(each))
        flight.to = next(may_take, b"")
        flight.given_ms, flight.sent_ms, flight.asks = now_ms, NEVER_MS, 0
        flight.patience_ms = min(max(RECEIPT_MS, 3 * self.slowest_ms // 2), SILENT_MS)
        flight.is_asking, flight.is_denied = flight.to in flight.given, False
        return bool(flight.to)

    def refused(self, flight: Flight, server: bytes, now_ms: int) -> None:
        """A server cannot hand a copy on: it is passed over as a silent one is."""
        self.silent[server] = now_ms + SILENT_MS
        flight.to = b""

    def sent(self, key: BundleKey, to: bytes, packed_bytes: int, now_ms: int) -> None:
        """The link has taken a bundle: from now on its receipt is due."""
        if (flight := self.flights.get(key)) and flight.to == to:
            flight.sent_ms = flight.given[to] = now_ms
            self.note_packed(flight.content_bytes, packed_bytes)

    def note_packed(self, content_bytes: int, packed_bytes: int) -> None:
        """Note what was left of content when it was packed: the next bundles and pages are filled by that."""
        if content_bytes and packed_bytes:
            part = max(PACKED_PART_MIN, min(1.0, packed_bytes / content_bytes))
            self.packed_part += (part - self.packed_part) / 4

    def took(self, flight: Flight, server: bytes, now_ms: int) -> None:
        """A server gave the receipt of a copy: the next ones are waited for as long as the slowest of late,
        and half as long again.

        A network that holds messages up would carry most copies twice otherwise. One that was asked for long
        after says nothing of that.
        """
        self.gives_receipts = True
        if server in flight.given and not flight.is_asking:
            self.slowest_ms = max(now_ms - flight.given[server], 7 * self.slowest_ms // 8)

    def due_ms(self) -> int:
        """The time at which a receipt is asked for or overdue, or a silent server is tried again."""
        due_ms = NEVER_MS
        for flight in self.flights.values():
            if flight.to:
                due_ms = min(due_ms, flight.overdue_ms(), flight.ask_ms())
            else:
                due_ms = min((due_ms, *self.silent.values()))
        return due_ms

    def to_ask(self, now_ms: int) -> list[Flight]:
        """The flights whose servers are to be asked now whether they took them."""
        found = [flight for flight in self.flights.values() if flight.ask_ms() <= now_ms]
        for flight in found:
            flight.asks += 1
        return found

    def overdue(self, now_ms: int) -> list[Flight]:
        """The flights that need another server now. Those that gave no receipt are silent from now on."""
        found = []
        for flight in self.flights.values():
            if flight.to and flight.overdue_ms() <= now_ms:
                if flight.is_denied:
                    flight.denials[flight.to] = flight.denials.get(flight.to, 0) + 1
                else:
                    self.silent[flight.to] = now_ms + SILENT_MS
                found.append(flight)
            elif not flight.to and min(self.silent.values(), default=0) <= now_ms:
                found.append(flight)
        return found
