"""Nodes over real stores, joined by wires that a test pumps: nothing happens but what it lets happen."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.core import subtree
from pillarbox.replication.core.preset import PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.node.conflict_notice import ConflictNotice
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.node import Belonging, Node
from pillarbox.replication.organisation.topology import Connector, Organisation, Server
from pillarbox.replication.transports.transport import Arrivals, Member, Members, Transport, nothing
from pillarbox.replication.wire.frame import VERSIONS_READ
from pillarbox.replication.wire.seal import Peer, Signer
from pillarbox.replication.wire.transport_frames import LABEL_BYTES
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine import numbering
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import DiskFull
from pillarbox.store.mail import folders, messages, public_folders
from pillarbox.store.upkeep.joining import join

TREE = Tree(b"t" * 16)
ANNA = Actor.user("anna")


class KnownKeys:
    """All stores know each other by keys that a test makes."""

    def __init__(self, database: bytes, keys: Mapping[bytes, ec.EllipticCurvePrivateKey]) -> None:
        self._database, self._keys = database, keys

    def signer(self, organisation: Organisation) -> Signer:
        return Signer(self._keys[self._database], self._database * 2)

    def peers(self, organisation: Organisation) -> Mapping[bytes, Peer]:
        return {
            database * 2: Peer(database, key.public_key(), organisation.is_removed(database))
            for database, key in self._keys.items()
        }

    def members(self, organisation: Organisation) -> Members:
        others = organisation.others(self._database)
        return {database: Member(database, organisation.servers[database].name) for database in others}


class Wires:
    """Frames on their way between nodes. `cut` are pairs of stores that cannot reach each other."""

    def __init__(self) -> None:
        self.ends: dict[bytes, Wire] = {}
        self.under_way: deque[tuple[bytes, bytes, bytes]] = deque()
        self.waiting: deque[tuple[bytes, bytes, bytes, Callable[[], None]]] = deque()  # for a slow link
        self.slow: set[bytes] = set()
        self.cut: set[frozenset[bytes]] = set()
        self.carried: list[tuple[bytes, bytes, bytes]] = []
        self.settled: list[tuple[bytes, bytes]] = []
        self.standing: set[frozenset[bytes]] = set()

    def versions(self, sender: bytes) -> set[int]:
        """The versions of the bundles that a store sent since the last look."""
        sent = [frame[LABEL_BYTES:] for giver, _, frame in self.carried if giver == sender]
        self.carried.clear()
        return {data[4] for data in sent if data[:4] == b"PBRM"}

    def follow(self) -> None:
        """Tell both ends of the links that stand now, or no longer."""
        now = {
            frozenset((one, other))
            for one, end in self.ends.items()
            for other in end.members
            if other in self.ends and one in self.ends[other].members
        } - self.cut
        changed, self.standing = now ^ self.standing, now
        for pair in changed:
            for one in pair:
                (other,) = pair - {one}
                if one in self.ends:
                    self.ends[one].arrivals.link_changed(other, pair in now)
        self.under_way = deque(each for each in self.under_way if frozenset(each[:2]) in now)
        self.waiting = deque(each for each in self.waiting if frozenset(each[:2]) in now)

    def pump(self) -> bool:
        """Deliver what is under way; False when nothing was."""
        waiting, self.waiting = self.waiting, deque()
        for sender, to, frame, went in waiting:
            if sender in self.slow:
                self.waiting.append((sender, to, frame, went))
            else:
                self.under_way.append((sender, to, frame))
                went()
        frames, self.under_way = self.under_way, deque()
        for sender, to, frame in frames:
            self.carried.append((sender, to, frame))
            if to in self.ends:
                self.ends[to].arrivals.frame_came(sender, frame, partial(self.settled.append, (to, frame)))
        return bool(frames)


class Wire:
    """A transport of one store."""

    arrivals: Arrivals

    def __init__(self, wires: Wires, database: bytes) -> None:
        self._wires, self._database = wires, database
        self.members: Members = {}
        self.room = 1 << 30  # frames

    def start(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self._wires.ends[self._database] = self

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        if not self.room or frozenset((self._database, peer)) not in self._wires.standing:
            return False
        self.room -= 1
        self._wires.waiting.append((self._database, peer, frame, went))
        return True

    def members_changed(self, members: Members) -> None:
        self.members = members
        self._wires.follow()

    def close(self) -> None:
        if self._wires.ends.get(self._database) is self:
            del self._wires.ends[self._database]
            self._wires.follow()


class StoreNode:
    """A real store with its node, and what its users do."""

    def __init__(self, place: Path, guid: bytes, nodes: Nodes) -> None:
        self.place, self.guid, self.nodes = place, guid, nodes
        self.events: list[Any] = []
        self.faults: list[str] = []
        self.told: list[ConflictNotice] = []
        self.seed = 0
        self.reads = VERSIONS_READ
        self.mount()
        if numbering.membership(self.database.read(ANNA)) is None:
            join(self.database, ANNA, TREE.guid)
        self.node = self.made()

    def mount(self) -> None:
        self.seed += 1
        self.database = Database(
            self.place,
            self.guid,
            self.place.name,
            DatabaseKind.PUBLIC_FOLDER_STORE,
            clock=self.nodes.clock,
            rng=random.Random(self.guid + bytes([self.seed])),
            reporter=self,
            tuning=Tuning(remove_beside=False),
        )
        if not self.place.exists():
            self.database.create()
        self.database.mount()

    def report(self, event: Any) -> None:
        self.events.append(event)

    def made(self, make_transport: Callable[[], Transport] | None = None) -> Node:
        belonging = Belonging(
            TREE,
            self.nodes.organisation,
            PROMPT,
            FenceFile(self.place.with_suffix(".fence"), b"m" * 16),
            KnownKeys(self.guid, self.nodes.keys),
            self.reads,
        )
        make = make_transport or (lambda: Wire(self.nodes.wires, self.guid))
        return Node(self.database, belonging, make, self.faults.append, self.told.append)

    def begin(self) -> None:
        """Start again, as after a mount."""
        self.mount()
        self.node = self.made()

    def stop(self) -> None:
        assert self.node.stop()
        self.database.dismount()

    @property
    def wire(self) -> Wire:
        return self.nodes.wires.ends[self.guid]

    def change(self, change: Callable[[WriteTransaction], Any]) -> Any:
        with self.database.transaction(ANNA) as txn:
            return change(txn)

    def folder(self, path: str) -> int:
        with self.database.read(ANNA) as read:
            return public_folders.find(read, path).folder_id

    def object_id(self, path: str) -> ObjectId:
        """A folder as all stores call it."""
        with self.database.read(ANNA) as read:
            return numbering.as_change_number(read, public_folders.find(read, path).folder_id)

    def post(self, path: str, text: str) -> int:
        folder_id = self.folder(path)
        raw = f"Subject: {text}\r\n\r\n{text}\r\n".encode()
        prepared = messages.prepare(self.database.files, raw)
        return int(self.change(lambda txn: messages.append(txn, folder_id, prepared).message_id))

    def items(self, path: str) -> list[Any]:
        with self.database.read(ANNA) as read:
            return list(folders.messages(read, public_folders.find(read, path).folder_id))

    def subjects(self, path: str) -> list[str]:
        return sorted(item.subject for item in self.items(path))

    def has(self, path: str) -> bool:
        with self.database.read(ANNA) as read:
            return any(each == (path,) for each, _ in public_folders.walk(read, ""))

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No transaction is made while the `with` block runs."""

        def refuse(actor: Actor) -> Any:
            raise DiskFull("the disk is full")

        self.database.transaction = refuse  # type: ignore[method-assign]
        yield
        del self.database.transaction  # type: ignore[method-assign]


class Nodes:
    """Nodes of a tree on one virtual clock, each in a site of its own letter."""

    def __init__(self, place: Path, sites: str = "aa", clock: Any = None) -> None:
        self.clock = clock or VirtualClock()
        self.wires = Wires()
        guids = [bytes([65 + k]) * 16 for k in range(len(sites))]
        self.keys = {guid: ec.derive_private_key(9 + k, ec.SECP256R1()) for k, guid in enumerate(guids)}
        servers = {
            guid: Server(guid, f"store{k}", site, 7)
            for k, (guid, site) in enumerate(zip(guids, sites, strict=True))
        }
        connectors = (Connector("ab", ("a", "b"), 10),) if "b" in sites else ()
        self.organisation = Organisation(servers, connectors, sites=tuple(sorted({*sites})))
        self.stores = [StoreNode(place / f"store{k}", guid, self) for k, guid in enumerate(guids)]
        self.down: set[int] = set()

    def __getitem__(self, store: int) -> StoreNode:
        return self.stores[store]

    def settle(self) -> int | None:
        """Let all that can happen now happen; when something is due next."""
        due: list[int | None] = []
        is_busy = True
        while is_busy:
            due = [each.node.work() for k, each in enumerate(self.stores) if k not in self.down]
            is_busy = self.wires.pump() or any(
                at_ms is not None and at_ms <= self.clock.monotonic_ms() for at_ms in due
            )
        return min((at_ms for at_ms in due if at_ms is not None), default=None)

    def wait(self, duration_ms: int) -> None:
        """Let time pass."""
        until_ms = self.clock.monotonic_ms() + duration_ms
        while (due_ms := self.settle()) is not None and due_ms <= until_ms:
            self.clock.advance_ms(due_ms - self.clock.monotonic_ms())
        self.clock.advance_ms(max(0, until_ms - self.clock.monotonic_ms()))
        self.settle()

    def cut(self, *pairs: tuple[int, int]) -> None:
        """Cut these links, and mend all others."""
        self.wires.cut = {frozenset((self[one].guid, self[other].guid)) for one, other in pairs}
        self.wires.follow()

    def edit_apart(self, path: str, *texts: bytes) -> None:
        """The one post of a folder gets a text at each store while none hears of another; then all are one
        again, for ten minutes."""
        self.cut(*combinations(range(len(self.stores)), 2))
        for store, text in zip(self.stores, texts, strict=True):
            (there,) = store.items(path)
            prepared = messages.prepare(store.database.files, b"Subject: first\r\n\r\n" + text)
            store.change(lambda txn, of=there, to=prepared: messages.replace_content(txn, of.message_id, to))
        self.wait(60_000)
        self.cut()
        self.wait(600_000)

    def share(self, path: str) -> None:
        """A folder at the first store with a replica at each."""
        self[0].change(lambda txn: public_folders.create(txn, path))
        self.wait(1_000)
        for other in self.stores[1:]:
            self.add_replica(0, path, other.guid)
        self.wait(60_000)

    def add_replica(self, at: int, path: str, database: bytes) -> None:
        folder = self[at].object_id(path)
        self.ask(
            at, lambda replica: subtree.change_replicas(replica, folder, Action.ADD, database, "operator")
        )

    def ask(self, at: int, change: Callable[[Replica], Any]) -> Any:
        """Have a command done by a node, as another thread would."""
        given: list[Any] = []
        asking = self[at].node.asked(change)
        self.settle()
        given.append(asking.result(0))
        return given[0]

    def close(self) -> None:
        for k, store in enumerate(self.stores):
            if k not in self.down:
                store.stop()
