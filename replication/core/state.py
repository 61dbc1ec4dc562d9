"""The replication state table: what a store keeps of each folder, beside the folder's objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple

from pillarbox.replication.ground.knowledge import NOTHING, Knowledge
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.wire.messages import Bundle, Life, Statement
from pillarbox.store.change_number import ChangeNumber, CNSet

NEVER_MS: Final = 1 << 62
UNHEARD: Final = Life(-1, -1)


@dataclass(frozen=True, slots=True)
class Row:
    """The last statement of another replica of the folder.

    It `is_doubted` while the last thing that was heard of the other replica is less than it had said before:
    that came late, or the store went back in time and does not know it.
    """

    life: Life = UNHEARD
    known: CNSet = NOTHING
    expired: CNSet = NOTHING
    heard_ms: int = 0
    is_doubted: bool = field(default=False, compare=False)  # not kept

    @property
    def had(self) -> CNSet:
        """The numbers that the other replica need not be sent."""
        return self.known | self.expired if self.expired else self.known

    def is_heard(self) -> bool:
        """True when the other replica ever stated anything."""
        return self.life != UNHEARD

    def told(self, statement: Statement, now_ms: int) -> Row:
        """The row after a statement; one of an earlier life changes nothing.

        Statements of one life are united, since they arrive in any order; a later life replaces the row.
        """
        if statement.life < self.life:
            return replace(self, is_doubted=True)
        before = self if statement.life == self.life else Row()
        if before.known == statement.known and before.expired == statement.expired:
            return Row(statement.life, before.known, before.expired, now_ms)
        if not (before.expired or statement.expired):  # so that most rows have one and the same empty set
            if statement.known.covers(before.known):
                return Row(statement.life, statement.known, NOTHING, now_ms)
            return Row(statement.life, before.known | statement.known, NOTHING, now_ms, is_doubted=True)
        known = (before.known | statement.known) - statement.expired
        expired = (before.expired | statement.expired) - statement.known or NOTHING
        return Row(statement.life, known, expired, now_ms, not statement.had.covers(before.had))


class Rows(dict[bytes, Row]):
    """The rows of a folder by database, with what changed in them: a row for each store of a large tree is
    too much to look at with every statement.

    `changed` are those that were set since these were looked at last, `expiring` those that say of numbers
    that they expired.
    """

    def __init__(self, rows: Mapping[bytes, Row] = MappingProxyType({})) -> None:
        super().__init__(rows)
        self.changed: dict[bytes, None] = {}
        self.expiring = {peer for peer, row in rows.items() if row.expired}

    def __setitem__(self, peer: bytes, row: Row) -> None:
        super().__setitem__(peer, row)
        self.changed[peer] = None
        if row.expired:
            self.expiring.add(peer)
        else:
            self.expiring.discard(peer)

    def copy(self) -> Rows:
        """A copy that does not change with this one."""
        copied = Rows.__new__(Rows)
        copied.update(self)
        copied.changed, copied.expiring = {}, set(self.expiring)
        return copied


@dataclass(frozen=True, slots=True)
class BackfillEntry:
    """Numbers that are missing, when they are asked for (again), and how often they were.

    One that `sleeps` has no source that can be reached: it is woken when one may be, and looked at once a
    day.
    """

    missing: CNSet
    due_ms: int
    tries: int = 0
    sleeps: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """A replica that is delete pending: its statement by number, and who acknowledged it with what."""

    number: int = 0
    stated: CNSet | None = None
    acknowledged: Mapping[bytes, tuple[CNSet, CNSet]] = field(default_factory=dict)
    due_ms: int = 0


class SetAside(NamedTuple):
    """An object that could not be applied: its numbers, why, since when, and when it is tried again."""

    numbers: frozenset[ChangeNumber]
    reason: str
    since_ms: int
    tries: int
    due_ms: int


class TooLarge(NamedTuple):
    """An object that no message has room for: the numbers of its versions, why, and since when (ms UTC)."""

    numbers: frozenset[ChangeNumber]
    reason: str
    since_ms: int


class Passing(NamedTuple):
    """A copy of somebody else's bundle that is to be handed on: its hops so far, and what waited behind
    it."""

    bundle: Bundle
    hops: int
    behind_ms: int


@dataclass
class Compared:
    """A memory of comparing: `lacked` is what other replicas know, as in `known`, and was not `had` here;
    only of those that know such numbers.

    When what is had grows, nothing but what is missing already has to be looked at again: the hierarchy of a
    large tree has a row for each of its stores, and hardly any of them has news.
    """

    had: CNSet = NOTHING
    known: dict[bytes, CNSet] = field(default_factory=dict)
    lacked: dict[bytes, CNSet] = field(default_factory=dict)
    asked: tuple[CNSet, CNSet, bool] = NOTHING, NOTHING, True  # two sets, and whether they are equal
    rows: Mapping[bytes, Row] | None = None  # that were looked at last, so that others are looked at in full

    def comes_to_the_same(self, peer: bytes, row: Row, statement: Statement, had: CNSet) -> bool:
        """True when a replica that is not known to have more than this one states that it has as much.

        In peace nearly all statements do, and this is seen in a tenth of the time of uniting sets of hundreds
        of origins and comparing them.
        """
        if had is not self.had or statement.life != row.life or statement.expired or row.expired:
            return False
        if peer in self.lacked or self.known.get(peer) is not row.known:
            return False
        if self.asked[0] is not statement.known or self.asked[1] is not had:
            self.asked = statement.known, had, statement.known == had
        return self.asked[2]

    def missing(self, rows: Rows, had: CNSet) -> CNSet:
        """The numbers that any of these replicas knows, and that are not `had` here."""
        if had is not self.had:
            self._follow(had)
        known = self.known
        for peer in rows.changed if rows is self.rows else rows:
            if known.get(peer) is not rows[peer].known:
                self._look(peer, rows[peer].known)
        rows.changed.clear()
        self.rows = rows
        lacked = NOTHING
        for peer, numbers in self.lacked.items():
            if peer in rows:
                lacked |= numbers
        return lacked

    def _follow(self, had: CNSet) -> None:
        if had.covers(self.had):
            for peer in list(self.lacked):
                self._note(peer, self.lacked[peer] - had)
        else:
            self.known.clear()
            self.lacked.clear()
            self.rows = None
        self.had = had

    def _look(self, peer: bytes, known: CNSet) -> None:
        self.known[peer] = known
        self._note(peer, NOTHING if known is self.had else known - self.had)

    def _note(self, peer: bytes, lacked: CNSet) -> None:
        if lacked:
            self.lacked[peer] = lacked
        else:
            self.lacked.pop(peer, None)


@dataclass
class FolderState:
    """One folder at one store. `is_held` says whether the store holds a replica at all.

    `life` counts how often it began to hold one. `own_last` is the last number of its own up to which it
    knows all of its numbers in this folder; `broadcast_to` the last one that it broadcast. `applied` counts
    what arrived and was applied. `expired_objects` says for each object that was expired under which
    numbers. `requested` are the sources that were asked since the start. `open_requests` counts for each
    source behind a link the requests that it has not answered to their end. `asked_back` are for each store
    the numbers of which others said that it holds them again, and it was asked. `closable_since_ms` says of
    origins since when their holes may be closed, for all that is known here. `set_aside` are objects that
    could not be applied, `marks` the numbers of its own that neighbour sites did not take yet.
    """

    is_held: bool = False
    life: int = 0
    knowledge: Knowledge = field(default_factory=Knowledge)
    own_last: int = 0
    broadcast_to: int = 0
    applied: int = 0
    rows: Rows = field(default_factory=Rows)
    leaving: Leaving = field(default_factory=Leaving)
    expired_objects: dict[ObjectId, frozenset[ChangeNumber]] = field(default_factory=dict)
    marks: dict[str, CNSet] = field(default_factory=dict)
    set_aside: dict[ObjectId, SetAside] = field(default_factory=dict)

    entries: tuple[BackfillEntry, ...] = ()
    asked: dict[bytes, int] = field(default_factory=dict)
    requested: frozenset[bytes] = frozenset()
    open_requests: dict[bytes, int] = field(default_factory=dict)
    silent: frozenset[bytes] = frozenset()
    fetched_by: dict[bytes, tuple[CNSet, int]] = field(default_factory=dict)
    asks_at_once: bool = False
    seeds_until_ms: int = 0
    asked_expired: CNSet = NOTHING
    asked_back: dict[bytes, CNSet] = field(default_factory=dict)
    reconciles: dict[bytes, CNSet] = field(default_factory=dict)
    reconciling: dict[bytes, int] = field(default_factory=dict)
    closable_since_ms: dict[bytes, int] = field(default_factory=dict)

    unsent_since_ms: int = NEVER_MS
    changed_ms: int = 0
    burst_since_ms: int = 0
    broadcast_ms: int = 0
    unstated_since_ms: int = NEVER_MS
    news_ms: int = 0
    awaited: frozenset[bytes] = frozenset()
    await_due_ms: int = NEVER_MS
    await_tries: int = 0
    site_status_due_ms: int = NEVER_MS
    purge_due_ms: int = NEVER_MS
    matched: Mapping[bytes, ReplicaState] | None = field(default=None, compare=False)
    """The other replicas of the list as it was when the rows were last those of it."""
    compared: Compared = field(default_factory=Compared, compare=False)
    """True of the sets that it names, whoever holds them: so copies share it."""

    def hear(self, peer: bytes, statement: Statement, now_ms: int) -> Row:
        """Take what another replica of the list states of itself; its row after that."""
        row, had = self.rows[peer], self.knowledge.settled
        if self.compared.comes_to_the_same(peer, row, statement, had):
            row = Row(row.life, had, NOTHING, now_ms)
        else:
            row = row.told(statement, now_ms)
        self.rows[peer] = row
        return row

    def restart(self, now_ms: int, purge_interval_ms: int) -> None:
        """Plan all that is due anew: times of before the restart mean nothing now."""
        self.entries, self.silent, self.asked_expired = (), frozenset(), NOTHING
        self.requested = frozenset()
        self.seeds_until_ms = 0
        # A replica that began while nothing was sent, by a command, say, has asked nobody yet.
        self.asks_at_once |= not any(row.is_heard() for row in self.rows.values())
        self.asked.clear()
        self.open_requests.clear()
        self.fetched_by.clear()
        self.asked_back.clear()
        self.site_status_due_ms = NEVER_MS
        self.reconciles.clear()
        self.reconciling.clear()
        self.closable_since_ms.clear()
        self.leaving = replace(self.leaving, due_ms=now_ms)
        self.set_aside = {key: each._replace(due_ms=now_ms) for key, each in self.set_aside.items()}
        self.unsent_since_ms = now_ms if self.own_last > self.broadcast_to else NEVER_MS
        self.changed_ms = self.burst_since_ms = self.broadcast_ms = now_ms
        self.unstated_since_ms = self.news_ms = now_ms
        self.purge_due_ms = now_ms + purge_interval_ms

    def aside(self) -> CNSet:
        """The numbers under which anything is set aside."""
        if not self.set_aside:
            return NOTHING
        numbers = CNSet.of(number for each in self.set_aside.values() for number in each.numbers)
        return numbers & self.knowledge.expired

    def await_all(self, stores: frozenset[bytes], now_ms: int) -> None:
        """Have the statuses of these stores asked for at once, until each has answered."""
        self.awaited = stores
        self.await_due_ms, self.await_tries = now_ms, 0

    def wake(self, now_ms: int) -> None:
        """A store was heard that may have what others cannot give: sleeping entries are looked at."""
        if any(entry.sleeps for entry in self.entries):
            self.entries = tuple(
                replace(entry, due_ms=now_ms) if entry.sleeps else entry for entry in self.entries
            )

    def look_for_tombstones(self, now_ms: int, purge_interval_ms: int) -> None:
        """Something changed: there may be a tombstone to purge when the interval is over."""
        if self.purge_due_ms == NEVER_MS:
            self.purge_due_ms = now_ms + purge_interval_ms

    def copy(self) -> FolderState:
        """A copy that does not change with this one."""
        copied = FolderState.__new__(FolderState)
        copied.__dict__.update(self.__dict__)  # as `copy` does, in a third of the time
        copied.knowledge = self.knowledge.copy()
        copied.rows = self.rows.copy()
        copied.expired_objects = dict(self.expired_objects)
        copied.marks = dict(self.marks)
        copied.set_aside = dict(self.set_aside)
        copied.asked = dict(self.asked)
        copied.open_requests = dict(self.open_requests)
        copied.fetched_by = dict(self.fetched_by)
        copied.asked_back = dict(self.asked_back)
        copied.reconciles = dict(self.reconciles)
        copied.reconciling = dict(self.reconciling)
        copied.closable_since_ms = dict(self.closable_since_ms)
        return copied


def expired_by_all(rows: Rows) -> CNSet:
    """Numbers that were expired elsewhere and are held by no other replica any more.

    Computed each time it is needed: written down, it would keep a number expired that some replica holds
    again.
    """
    if not rows.expiring:
        return NOTHING
    union = NOTHING
    for row in rows.values():
        if row.expired is not NOTHING:
            union |= row.expired
    for row in rows.values():
        if not union:
            break
        union -= row.known
    return union
