"""Two real public folder stores with their replicators, and the link between them, over which signed bytes
go."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.core.effects import Send
from pillarbox.replication.core.preset import DAY_MS, PROMPT
from pillarbox.replication.ground.records import ObjectId, ReplicaState, Tree
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.gate import Frame, Gate
from pillarbox.replication.node.opening import Batch
from pillarbox.replication.node.sealing import Sealer
from pillarbox.replication.node.store_replicator import Outgoing, StoreReplicator
from pillarbox.replication.organisation.topology import Organisation, Server
from pillarbox.replication.wire.seal import Peer, Signer
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine import numbering, replication_state
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.ids import COUNTER_BITS, counter_of
from pillarbox.store.mail import apply_messages, folders, messages, public_folders
from pillarbox.store.upkeep.joining import join

ItemT = TypeVar("ItemT")

TREE: Final = Tree(b"t" * 16)
SOURCE, RECEIVER = b"s" * 16, b"r" * 16
BATCH_COUNT: Final = 40  # frames that are applied in one transaction: some 600 messages of mail
BEGAN_MS: Final = 1_800_000_000_000
FOLDER: Final = "Bench"
_USER: Final = Actor.user("anna")
_POSTS_COUNT: Final = 1000
_SERVERS: Final = {
    SOURCE: Server(SOURCE, "source", "site", 1),
    RECEIVER: Server(RECEIVER, "receiver", "site", 1),
}
_ORGANISATION: Final = Organisation(_SERVERS)
SIGNERS: Final = {
    database: Signer(ec.derive_private_key(database[0], ec.SECP256R1()), database * 2)
    for database in _SERVERS
}
_PEERS: Final = {signer.fingerprint: Peer(guid, signer.key.public_key()) for guid, signer in SIGNERS.items()}


def _tell_fault(fault: str) -> None:
    sys.stderr.write(fault)


class Side:
    """One store of two, with what its users do there. `clock` is that of both."""

    def __init__(self, path: Path, guid: bytes, clock: VirtualClock) -> None:
        self.path, self.guid, self.clock = path, guid, clock
        rng = random.Random(guid + path.name.encode() + str(clock.now_ms()).encode())
        self.database = Database(
            path, guid, path.name, DatabaseKind.PUBLIC_FOLDER_STORE, clock=clock, rng=rng
        )
        if not path.exists():
            self.database.create()
        self.database.mount()
        join(self.database, _USER, TREE.guid)
        self.waiting: deque[Outgoing] = deque()
        fence = FenceFile(path.with_suffix(".fence"), b"m" * 16)
        self.replicator = StoreReplicator(
            self.database, TREE, _ORGANISATION, PROMPT, fence, self.waiting.append
        )
        self.gate = Gate(self.database, TREE, lambda: _PEERS, _tell_fault)
        self.replicator.start()

    def close(self) -> None:
        """End properly."""
        self.replicator.stop()
        self.database.dismount()

    def copy(self, path: Path) -> None:
        """Copy the files of a store that was closed. Its fence stays, by which a copy is told from it."""
        shutil.copytree(self.path, path)

    # --- its users ----------------------------------------------------------------------------------------

    def make_folder(self) -> None:
        """Make the folder of which both stores hold a replica."""
        with self.database.transaction(_USER) as txn:
            folder_id = public_folders.create(txn, FOLDER).folder_id
            for database in _SERVERS:
                public_folders.set_replica(txn, folder_id, database, ReplicaState.ACTIVE)

    def post(self, raws: Iterable[bytes]) -> None:
        """Post messages, a thousand in a transaction."""
        for batch in batches(raws, _POSTS_COUNT):
            ready = [messages.prepare(self.database.files, raw) for raw in batch]
            with self.database.transaction(_USER) as txn:
                folder_id = public_folders.find(txn, FOLDER).folder_id
                for each in ready:
                    messages.append(txn, folder_id, each)

    def change(self, changed: Iterable[ObjectId]) -> None:
        """Set a flag on messages."""
        self._do(changed, lambda txn, message_id: messages.set_flags(txn, message_id, add=["\\Flagged"]))

    def delete(self, doomed: Iterable[ObjectId]) -> None:
        """Delete messages."""
        self._do(doomed, messages.delete)

    def _do(self, of: Iterable[ObjectId], change: Callable[[WriteTransaction, int], object]) -> None:
        for batch in batches(of, _POSTS_COUNT):
            with self.database.transaction(_USER) as txn:
                for each in batch:
                    change(txn, _message_id(txn, each))

    # --- the link -----------------------------------------------------------------------------------------

    def open(self, arrived: Iterable[bytes]) -> Batch:
        """Open what arrived, outside of any transaction."""
        return self.gate.open(Frame(SOURCE, data) for data in arrived)

    def apply(self, batch: Batch) -> None:
        """Apply a batch as one transaction."""
        self.replicator.receive(batch)

    def leaving(self) -> Iterator[bytes]:
        """Frames of all that is to be sent, each sealed when its turn comes."""
        sealer = Sealer(TREE)
        while self.waiting:
            outgoing = self.waiting.popleft()
            sealed = sealer.frames_of(outgoing, SIGNERS[self.guid], self.clock.now_ms())
            if isinstance(outgoing.effect, Send):
                self.replicator.page_packed(outgoing.effect.message, sealed.size_bytes)
            yield from sealed.frames

    # --- what is in it ------------------------------------------------------------------------------------

    def live(self) -> dict[ObjectId, tuple[bytes, int]]:
        """The content and the flags of each message."""
        with self.database.read(_USER) as read:
            folder_id = public_folders.find(read, FOLDER).folder_id
            return {
                numbering.as_change_number(read, item.message_id): (item.digest, item.flags)
                for item in folders.messages(read, folder_id)
            }

    def holds(self, message: ObjectId) -> bool:
        """True when the store has a message, or its tombstone."""
        with self.database.transaction(_USER) as txn:
            folder_id = public_folders.find(txn, FOLDER).folder_id
            return apply_messages.state_of(txn, folder_id, _message_id(txn, message)) is not None

    def has_folder(self) -> bool:
        """True when the folder is here."""
        with self.database.read(_USER) as read:
            return any(path == (FOLDER,) for path, _ in public_folders.walk(read, ""))

    def known(self) -> CNSet:
        """The numbers that the store knows of the folder."""
        with self.database.read(_USER) as read:
            return replication_state.known(read, public_folders.find(read, FOLDER).folder_id)

    def fingerprint(self) -> tuple[object, ...]:
        """Equal where all that the store holds and knows is, but for when it last heard others."""
        kinds = (Kept.STORE, Kept.KNOWN, Kept.FOLDER)
        with self.database.read(_USER) as read:
            rows = [row[:2] for row in replication_state.all_kept(read, Kept.ROW)]
            kept = [list(replication_state.all_kept(read, kind)) for kind in kinds]
            return read.state().counter, kept, rows


def _message_id(reader: Reader, message: ObjectId) -> int:
    """The id of a message here."""
    numbers = {replica.origin: number for number, replica in numbering.replicas(reader)}
    return numbers[message.origin] << COUNTER_BITS | counter_of(message.counter)


def batches(items: Iterable[ItemT], count: int) -> Iterator[list[ItemT]]:
    """Items in lists of so many."""
    each = iter(items)
    while batch := list(islice(each, count)):
        yield batch


class Link:
    """Carries what two stores send each other until nothing is left to send, and counts the bytes."""

    def __init__(self, one: Side, other: Side) -> None:
        self._ways = ((one, other), (other, one))
        self._clock = one.clock
        self.bytes = Counter[bytes]()  # by the store that sent them

    def run(self, is_done: Callable[[], bool]) -> None:
        """Carry messages, and let time pass when none waits, until all is done. Raises TimeoutError after 30
        days of the stores' time.
        """
        until_ms = self._clock.now_ms() + 30 * DAY_MS
        for side, _ in self._ways:
            side.replicator.tick()
        while not (is_done() and not any(side.waiting for side, _ in self._ways)):
            if not self._carry():
                self._wait()
            if self._clock.now_ms() > until_ms:
                raise TimeoutError("the stores are not in sync after 30 days")

    def _carry(self) -> bool:
        """Carry what waits, a batch in each direction; False when nothing did."""
        carried = 0
        for sender, taker in self._ways:
            for arrived in batches(islice(sender.leaving(), BATCH_COUNT), BATCH_COUNT):
                self.bytes[sender.guid] += sum(map(len, arrived))
                self.hand_over(taker, arrived)
                carried += len(arrived)
        return carried > 0

    def hand_over(self, taker: Side, arrived: list[bytes]) -> None:
        """Give a store what arrived for it."""
        taker.apply(taker.open(arrived))
        if taker.gate.refused_counts:
            raise AssertionError(f"a store refused what the other sent: {taker.gate.refused_counts}")

    def _wait(self) -> None:
        """Let time pass up to the next tick that is due, and do what is due then."""
        sides = [side for side, _ in self._ways]
        due = [due_ms for side in sides if (due_ms := side.replicator.due_ms()) is not None]
        if not due:
            raise TimeoutError("the stores are not in sync, and nothing is due")
        self._clock.advance_ms(max(0, min(due) - self._clock.monotonic_ms()))
        for side in sides:
            due_ms = side.replicator.due_ms()
            if due_ms is not None and due_ms <= self._clock.monotonic_ms():
                side.replicator.tick()
