"""Two real public folder stores with their replicators, and the link between them, over which signed bytes
go."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.core import writing
from pillarbox.replication.core.effects import Answer, Effect, Send
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.preset import DAY_MS, PROMPT
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground.records import MessageVersion, ObjectId, ReplicaState, Tree
from pillarbox.replication.node import stored_record
from pillarbox.replication.node.gate import Frame, Gate
from pillarbox.replication.node.opening import Arrived, Batch
from pillarbox.replication.node.stored_objects import StoredObjects
from pillarbox.replication.organisation.bridgeheads import bucket_of
from pillarbox.replication.organisation.topology import Organisation, Server
from pillarbox.replication.wire.messages import (
    Bundle,
    Changes,
    Class,
    Label,
    Message,
    ReconcileAnswer,
    Sender,
)
from pillarbox.replication.wire.seal import Peer, Signer, seal
from pillarbox.replication.wire.transport_frames import encode_label
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine import content_store
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.ids import new_guid
from pillarbox.store.mail import messages
from pillarbox.store.mail.messages import PreparedMessage
from pillarbox.store.upkeep.joining import join

ItemT = TypeVar("ItemT")

TREE: Final = Tree(b"t" * 16)
SOURCE, RECEIVER = b"s" * 16, b"r" * 16
BATCH_COUNT: Final = 40  # messages on the wire that are applied in one transaction: some 600 of mail
BEGAN_MS: Final = 1_800_000_000_000
_USER: Final = "anna"
_POSTS_COUNT: Final = 1000
_ACTOR: Final = Actor.task("replication")
_SERVERS: Final = {
    SOURCE: Server(SOURCE, "source", "site", 1),
    RECEIVER: Server(RECEIVER, "receiver", "site", 1),
}
KEYS: Final = {database: ec.derive_private_key(database[0], ec.SECP256R1()) for database in _SERVERS}
_PEERS: Final = {database * 2: Peer(database, key.public_key()) for database, key in KEYS.items()}


class Side:
    """One store of two. Each method that changes it is one transaction, or one for each thousand posts."""

    def __init__(
        self, path: Path, database: bytes, begins: Start = Start.JOINED, now_ms: int = BEGAN_MS
    ) -> None:
        self.database = Database(path, database, path.name, DatabaseKind.PUBLIC_FOLDER_STORE)
        if not path.exists():
            self.database.create()
        self.database.mount()
        join(self.database, _ACTOR, TREE.guid)
        self.now_ms = now_ms
        self.waiting: deque[Send | Answer] = deque()
        self.guid, self._rng = database, random.Random(database + path.name.encode())
        self.gate = Gate(self.database, TREE, lambda: _PEERS)
        self._signer = Signer(KEYS[database], database * 2)
        self._sent_count = 0
        self._record = ReplicaRecord(sender=Sender(database, 1, self._new_guid()))
        with self.database.transaction(_ACTOR) as txn:
            objects = self._objects(txn)
            self._record = stored_record.load(txn, objects.identifiers) or self._record
            self.replicator = Replicator(
                self._record, TREE, Organisation(_SERVERS), PROMPT, objects, self._new_guid
            )
        self.do(lambda replicator: replicator.start(self.now, begins))

    def _new_guid(self) -> bytes:
        return new_guid(self._rng)

    def _objects(
        self, txn: WriteTransaction, prepared: Mapping[bytes, PreparedMessage] = {}
    ) -> StoredObjects:
        def owner_of(origin: bytes) -> tuple[bytes, int]:
            return self._record.owners.get(origin, (self.guid, 1))

        return StoredObjects(txn, TREE, owner_of, lambda digest: content_store.read(txn, digest), prepared)

    @property
    def now(self) -> Moment:
        """The time by both clocks."""
        return Moment(self.now_ms, self.now_ms)

    def do(
        self,
        *calls: Callable[[Replicator], list[Effect]],
        prepared: Mapping[bytes, PreparedMessage] = {},
    ) -> None:
        """Make calls of the replicator, as one transaction; what they send waits for the link."""
        effects: list[Effect] = []
        touched: set[ObjectId] = set()
        with self.database.transaction(_ACTOR) as txn:
            objects = self._objects(txn, prepared)
            self.replicator.replica.objects = objects
            for call in calls:
                effects += call(self.replicator)
                touched |= self.replicator.replica.touched
            stored_record.save(txn, objects.identifiers, self._record, touched)
        self.waiting.extend(effect for effect in effects if isinstance(effect, Send | Answer))

    def local(
        self, change: Callable[[Replica], object], prepared: Mapping[bytes, PreparedMessage] = {}
    ) -> None:
        """Make a change of this store by functions of `writing`."""
        self.do(lambda replicator: replicator.local_changes(change, self.now)[1], prepared=prepared)

    def make_folder(self) -> ObjectId:
        """Make the folder of which both stores hold a replica."""
        active = dict.fromkeys(_SERVERS, ReplicaState.ACTIVE)
        made: list[ObjectId] = []
        self.local(
            lambda replica: made.append(writing.create_folder(replica, TREE.root, "Bench", active, _USER))
        )
        return made[0]

    def post(self, folder: ObjectId, raws: Iterable[bytes]) -> None:
        """Post messages, a thousand in a transaction."""
        for batch in batches(raws, _POSTS_COUNT):
            ready = [messages.prepare(self.database.files, raw) for raw in batch]
            prepared = {each.content.digest: each for each in ready}

            def post(replica: Replica, ready: list[PreparedMessage] = ready) -> None:
                for each in ready:
                    writing.post(replica, folder, each.content.digest, len(each.raw), _USER)

            self.local(post, prepared)

    def edit(self, folder: ObjectId, message: ObjectId, raw: bytes) -> None:
        """Give a message another content."""
        ready = messages.prepare(self.database.files, raw)
        digest = ready.content.digest

        def edit(replica: Replica) -> None:
            writing.edit(replica, folder, message, _USER, content=digest, size_bytes=len(raw))

        self.local(edit, {digest: ready})

    def delete(self, folder: ObjectId, doomed: Iterable[ObjectId]) -> None:
        """Delete messages."""

        def delete(replica: Replica) -> None:
            for each in doomed:
                writing.delete(replica, folder, each, _USER)

        self.local(delete)

    def tick(self, passed_ms: int) -> None:
        """Let time pass, and do what is due then."""
        self.now_ms += passed_ms
        self.do(lambda replicator: replicator.tick(self.now))

    def close(self) -> None:
        """Dismount the store."""
        self.database.dismount()

    # --- the link ---------------------------------------------------------------------------------------

    def open(self, arrived: Iterable[bytes]) -> Batch:
        """Open what arrived, outside of any transaction."""
        return self.gate.open(Frame(SOURCE, data) for data in arrived)

    def apply(self, batch: Batch) -> None:
        """Apply a batch as one transaction."""
        bundles = (each.opened.bundle for each in batch.taken if isinstance(each, Arrived))
        arrived = (message for bundle in bundles for message in bundle.messages)
        calls = [partial(_receive, message, self.now) for message in arrived]
        self.do(*calls, prepared=batch.prepared)

    def next_bytes(self) -> bytes | None:
        """The next message that leaves, sealed; of an answer its next page, made now."""
        if not self.waiting:
            return None
        effect = self.waiting.popleft()
        with self.database.transaction(_ACTOR) as txn:
            if isinstance(effect, Send):
                return self._sealed(txn, effect.message)
            self.replicator.replica.objects = self._objects(txn)
            message, left = self.replicator.answer_page(effect, self.now)
            if left is not None:
                self.waiting.append(left)
            return self._sealed(txn, message) if message else None

    def _sealed(self, txn: WriteTransaction, message: Message) -> bytes:
        self._sent_count += 1
        contents = [content_store.read(txn, digest) for digest in _digests(message)]
        bucket = bucket_of(message.folder)
        bundle = Bundle(message.sender, self._sent_count, Class.CHANGES, bucket, (), (message,), message.to)
        label = encode_label(Label(message.to, 0, False, 0))
        return label + seal(bundle, TREE, self._signer, self.now_ms, contents)

    # --- what is in it ------------------------------------------------------------------------------------

    def live(self, folder: ObjectId) -> dict[ObjectId, tuple[bytes, ...]]:
        """The contents of each message that is not deleted."""
        with self.database.transaction(_ACTOR) as txn:
            objects = self._objects(txn)
            found = {each: objects.get(folder, each) for each in objects.ids(folder)}
        return {
            each: tuple(version.content for version in versions.live())
            for each, versions in found.items()
            if versions and versions.live()
        }

    def holds(self, folder: ObjectId, message: ObjectId) -> bool:
        """True when the store has a message, or its tombstone."""
        with self.database.transaction(_ACTOR) as txn:
            return self._objects(txn).get(folder, message) is not None

    def fingerprint(self) -> tuple[object, ...]:
        """Equal where all that the store holds and knows is, but for when it last heard others."""
        record = self._record
        with self.database.transaction(_ACTOR) as txn:
            changes_count = txn.counter
        folders = {
            folder: (
                (state.is_held, state.life, state.applied),
                (state.knowledge.known, state.knowledge.expired, state.knowledge.purged),
                {database: (row.life, row.known, row.expired) for database, row in state.rows.items()},
            )
            for folder, state in record.folders.items()
        }
        return changes_count, record.counter, dict(record.owners), record.quarantined, folders

    def knows_as(self, other: Side, folder: ObjectId) -> bool:
        """True when both stores know the same numbers of a folder."""
        mine, theirs = (side.replicator.replica.state(folder).knowledge for side in (self, other))
        return bool(mine.known) and mine.known == theirs.known


def _receive(message: Message, now: Moment, replicator: Replicator) -> list[Effect]:
    return replicator.receive(message, now)


def _digests(message: Message) -> list[bytes]:
    """The contents that a message carries, each once."""
    body = message.body
    if not isinstance(body, Changes | ReconcileAnswer):
        return []
    versions = (version for _, each in body.objects for version in each.siblings.values())
    carried = (version.content for version in versions if isinstance(version, MessageVersion))
    return [digest for digest in dict.fromkeys(carried) if digest]


def batches(items: Iterable[ItemT], count: int) -> Iterator[list[ItemT]]:
    """Items in lists of so many."""
    each = iter(items)
    while batch := list(islice(each, count)):
        yield batch


class Link:
    """Carries what two stores send each other until nothing is left to send, and counts the bytes."""

    def __init__(self, one: Side, other: Side) -> None:
        self._ways = ((one, other), (other, one))
        self.bytes = Counter[bytes]()  # by the store that sent them

    def run(self, is_done: Callable[[], bool]) -> None:
        """Carry messages, and let time pass when none waits, until all is done. Raises TimeoutError after 30
        days of the stores' time.
        """
        until_ms = self._ways[0][0].now_ms + 30 * DAY_MS
        while not (is_done() and not any(side.waiting for side, _ in self._ways)):
            if not self._carry():
                self._wait()
            if self._ways[0][0].now_ms > until_ms:
                raise TimeoutError("the stores are not in sync after 30 days")

    def _carry(self) -> bool:
        """Carry what waits, a batch in each direction; False when nothing did."""
        carried = 0
        for sender, taker in self._ways:
            arrived = list(islice(iter(sender.next_bytes, None), BATCH_COUNT))
            if arrived:
                self.bytes[sender.guid] += sum(map(len, arrived))
                self.hand_over(taker, arrived)
                carried += len(arrived)
        return carried > 0

    def hand_over(self, taker: Side, arrived: list[bytes]) -> None:
        """Give a store what arrived for it."""
        taker.apply(taker.open(arrived))

    def _wait(self) -> None:
        """Let time pass up to the next tick that is due."""
        sides = [side for side, _ in self._ways]
        due = [due_ms for side in sides if (due_ms := side.replicator.next_due_ms()) is not None]
        now_ms = max(min(due), sides[0].now_ms + 1)
        for side in sides:
            side.tick(now_ms - side.now_ms)
