"""A few stores of a tree that are driven by hand, call by call."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pillarbox.replication.core import deletion, writing
from pillarbox.replication.core.effects import Answer, Effect, GiveReceipt, Pass, Report, Send
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.preset import PROMPT, Preset
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground.records import MessageView, ObjectId, ReplicaState, Tree
from pillarbox.replication.organisation.topology import Connector, Organisation, Server
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import Changes, Message, Says, Sender
from pillarbox.store.ids import new_guid

TREE = Tree(b"t" * 16)
ACTOR = "anna"
PACKED_BYTES = 1 << 20  # what a bundle is packed to: nothing packs well here


def new_guids(seed: int) -> Callable[[], bytes]:
    """A source of GUIDs."""
    rng = random.Random(seed)
    return lambda: new_guid(rng)


def nothing(message: Message) -> bool:
    return False


class Post:
    """Stores that are joined by a table on which messages lie until they are taken or lost."""

    def __init__(self, sites: str = "aa", preset: Preset = PROMPT, star: str = "") -> None:
        """Stores, each of a site. The sites stand in a chain, or around one that is the middle of a star."""
        self.now_ms = 1_800_000_000_000
        stores = [name.encode() * 16 for name in "123456789"[: len(sites)]]
        servers = {
            store: Server(store, store.decode()[0], site, 6)
            for store, site in zip(stores, sites, strict=True)
        }
        names = sorted({*sites, *"ab"})
        pairs = [(star, each) for each in names if each != star] if star else pairwise(names)
        connectors = [Connector(one + other, (one, other), 10) for one, other in pairs]
        self.organisation = Organisation(servers, tuple(connectors))
        self.table: list[Message] = []
        self.copies: list[tuple[bytes, Pass]] = []
        self.cut: set[tuple[bytes, bytes]] = set()
        self.passed: list[tuple[bytes, Pass]] = []
        self.sent: list[Message] = []
        self.reported: list[tuple[str, Report]] = []  # by the server that made each
        self.stores = [
            Replicator(
                ReplicaRecord(Sender(store, 1, bytes([65 + k]) * 16)),
                TREE,
                self.organisation,
                preset,
                DictObjects(),
                new_guids(k),
            )
            for k, store in enumerate(stores)
        ]
        for store in self.stores:
            self.put(store, store.start(self.now, Start.JOINED))

    @property
    def now(self) -> Moment:
        return Moment(self.now_ms, self.now_ms)

    def put(self, store: Replicator, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.table.append(effect.message)
            elif isinstance(effect, Pass):
                self.copies.append((store.replica.me.database, effect))
            elif isinstance(effect, GiveReceipt):
                way = store.replica.me.database, effect.to
                if effect.receipt.says is not Says.ASKS or way not in self.cut:
                    giver = self.store(effect.to)
                    self.put(giver, giver.receipt_came(effect.receipt, self.now))
            elif isinstance(effect, Answer):
                message = store.answer_page(effect.key, self.now)
                self.table += [message] if message else []
                self.put(store, store.page_taken(effect.key, self.now))
            elif isinstance(effect, Report):
                self.reported.append((store.replica.me.database.decode()[0], effect))

    def do(self, store: int, change: Callable[[Replica], Any]) -> Any:
        result, effects = self.stores[store].local_changes(change, self.now)
        self.put(self.stores[store], effects)
        return result

    def carry(self, is_lost: Callable[[Message], bool] = nothing) -> None:
        """Deliver all that lies on the table and what follows from it."""
        while self.table or self.copies:
            for message in [self.table.pop(0)] if self.table else []:
                self.sent.append(message)
                if not is_lost(message):
                    store = self.store(message.to)
                    self.put(store, store.receive(message, self.now))
            for hop, copy in [self.copies.pop(0)] if self.copies else []:
                self.passed.append((hop, copy))
                self._pass(hop, copy, is_lost)

    def _pass(self, hop: bytes, copy: Pass, is_lost: Callable[[Message], bool]) -> None:
        """Carry a copy one hop. A test looks at its messages as if each were to the one who gets them."""
        label, bundle = copy.label, copy.bundle
        told = [replace(message, to=label.to) for message in bundle.messages]
        self.sent += told
        giver, store = self.store(hop), self.store(label.to)
        self.cut.discard((hop, label.to))
        if any(is_lost(message) for message in told):
            self.cut.add((hop, label.to))
        else:
            self.put(store, store.receive_copy(label, bundle, hop, self.now))
        self.put(giver, giver.sent(bundle.key, label.to, PACKED_BYTES, self.now))

    def store(self, database: bytes) -> Replicator:
        return next(each for each in self.stores if each.replica.me.database == database)

    def wait(self, duration_ms: int, is_lost: Callable[[Message], bool] = nothing) -> None:
        """Let time pass: each store ticks when it is due. Where a copy was lost questions are lost,
        too, until nothing is lost any more."""
        if is_lost is nothing:
            self.cut.clear()
        until_ms = self.now_ms + duration_ms
        self.carry(is_lost)
        while True:
            planned = [(each.next_due_ms(), k) for k, each in enumerate(self.stores)]
            due = [(due_ms, k) for due_ms, k in planned if due_ms is not None]
            if not due or min(due)[0] > until_ms:
                break
            due_ms, store = min(due)
            self.now_ms = max(self.now_ms, due_ms)
            self.put(self.stores[store], self.stores[store].tick(self.now))
            self.carry(is_lost)
        self.now_ms = until_ms

    def edit_apart(self, folder: ObjectId, message: ObjectId) -> None:
        """Edit a message in two stores that know nothing of each other's edit."""
        for store, content in ((0, b"mine"), (1, b"theirs")):
            self.do(
                store,
                lambda replica, to=content: writing.edit(replica, folder, message, ACTOR, content=to),
            )

    def changes(self) -> list[Message]:
        """The messages sent so far that carry changes."""
        return [each for each in self.sent if is_changes(each)]

    def purge_after_silence(self, store: int, folder: ObjectId, silent: str) -> None:
        """Have a store purge what it may of a folder, as after 180 days without a word of some others."""
        replica = self.replica(store)
        rows = replica.state(folder).rows
        for peer in (name.encode() * 16 for name in silent):
            rows[peer] = replace(rows[peer], heard_ms=0)
            replica.heard[peer] = 0
        self.do(store, lambda replica: deletion.purge(replica, folder))

    def lose(self, store: int) -> None:
        """Lose a store for good; the others learn that it was removed, and count on without it."""
        gone = self.stores.pop(store).replica.me.database
        servers = {**self.organisation.servers}
        servers[gone] = servers[gone]._replace(is_removed=True)
        self.organisation = replace(self.organisation, servers=servers)
        for left in self.stores:
            self.put(left, left.organisation_changed(self.organisation, self.now))
        self.table = [each for each in self.table if gone not in (each.to, each.sender.database)]
        self.copies = [(hop, copy) for hop, copy in self.copies if gone not in (hop, copy.label.to)]

    def replica(self, store: int) -> Replica:
        return self.stores[store].replica

    def messages(self, store: int, folder: ObjectId) -> list[MessageView]:
        objects = self.replica(store).objects
        found = (objects.get(folder, message) for message in objects.ids(folder))
        return [MessageView.read(each, self.now_ms) for each in found if each and each.live()]

    def folder(self, replicas: str = "12", at: int = 0) -> ObjectId:
        """A folder with these replicas, known to all stores."""
        lists = {name.encode() * 16: ReplicaState.ACTIVE for name in replicas}
        made: ObjectId = self.do(
            at, lambda replica: writing.create_folder(replica, TREE.root, "News", lists, ACTOR)
        )
        self.wait(10_000)
        self.sent.clear()
        return made

    def post(self, store: int, folder: ObjectId, content: bytes = b"c", size_bytes: int = 1000) -> ObjectId:
        made: ObjectId = self.do(
            store, lambda replica: writing.post(replica, folder, content, size_bytes, ACTOR)
        )
        return made


def is_changes(message: Message) -> bool:
    return isinstance(message.body, Changes)


def to_or_from(store: bytes) -> Callable[[Message], bool]:
    """True of a message that a store sends or is to get: lost, it is cut off."""
    return lambda message: store in (message.to, message.sender.database)
