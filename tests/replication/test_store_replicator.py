"""Real stores that users change become equal by messages that may come late, doubled or never."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.core import identity, subtree
from pillarbox.replication.core.effects import Pass
from pillarbox.replication.core.identity import Return
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.node import held_copies
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.gate import Frame, Gate
from pillarbox.replication.node.held_copies import HeldCopies
from pillarbox.replication.node.sealing import Sealer
from pillarbox.replication.node.store_replicator import Outgoing, StoreReplicator
from pillarbox.replication.organisation.topology import Connector, Organisation, Server
from pillarbox.replication.wire.seal import Peer, Signer
from pillarbox.store.access import Actor, FolderRights
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import MEMBERSHIP_KEY, DatabaseKind, Hidden, Table
from pillarbox.store.engine import numbering, replication_state, withheld
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import AlreadyExists, Corrupt, NoReplica, OverLimit, PillarboxError, Refused
from pillarbox.store.events import Event, EventId
from pillarbox.store.ids import COUNTER_BITS, COUNTER_MAX, counter_of
from pillarbox.store.mail import apply_messages, copying, folders, messages, public_folders
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import join

TREE = Tree(b"t" * 16)
ANNA = Actor.user("anna")
TUNING = Tuning(checkpoint_beside=False, remove_beside=False)  # files are copied while nothing changes them
SIGNERS = {
    guid: Signer(ec.derive_private_key(guid[0], ec.SECP256R1()), guid * 2)
    for guid in (bytes([65 + k]) * 16 for k in range(4))
}
PEERS = {signer.fingerprint: Peer(guid, signer.key.public_key()) for guid, signer in SIGNERS.items()}


class Store:
    """A real store, its replicator, and what its users do to it."""

    def __init__(self, place: Path, guid: bytes, organisation: Organisation, clock: VirtualClock) -> None:
        self.place, self.guid, self.clock = place, guid, clock
        self.organisation = organisation
        self.fence = FenceFile(place.with_suffix(".fence"), b"m" * 16)
        self.sent: list[Outgoing] = []
        self.faults: list[str] = []
        self.seed = 0
        self.mount()
        join(self.database, ANNA, TREE.guid)

    def mount(self) -> None:
        self.seed += 1
        self.database = Database(
            self.place,
            self.guid,
            self.place.name,
            DatabaseKind.PUBLIC_FOLDER_STORE,
            clock=self.clock,
            rng=random.Random(self.guid + bytes([self.seed])),
            tuning=TUNING,
        )
        if not self.place.exists():
            self.database.create()
        self.database.mount()
        self.replicator = StoreReplicator(
            self.database, TREE, self.organisation, PROMPT, self.fence, self.sent.append
        )
        self.gate = Gate(self.database, TREE, lambda: PEERS, self.faults.append)

    def stop(self) -> None:
        self.replicator.stop()
        self.database.dismount()

    def copy(self, place: Path) -> None:
        """Copy the files as they are, as of a machine that is cut off."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.place, place)

    def go_back(self, place: Path) -> None:
        """End without any word, and go on from a copy of the files."""
        self.database.dismount()
        shutil.rmtree(self.place)
        shutil.copytree(place, self.place)
        self.mount()

    def tell_restored(self) -> None:
        """Mark the database as one that was restored. A transaction is kept only with some row in it."""
        with self.database.transaction(ANNA) as txn:
            txn.restored = True
            txn.put(Table.META, MEMBERSHIP_KEY, numbering.membership(txn))
        with self.database.read(ANNA) as read:
            assert read.state().restored

    # -- what users do

    def change(self, change: Callable[[WriteTransaction], Any]) -> Any:
        with self.database.transaction(ANNA) as txn:
            return change(txn)

    def folder(self, path: str) -> int:
        with self.database.read(ANNA) as read:
            return public_folders.find(read, path).folder_id

    def post(self, path: str, text: str) -> int:
        folder_id = self.folder(path)
        raw = f"Subject: {text}\r\n\r\n{text}\r\n".encode()
        prepared = messages.prepare(self.database.files, raw)
        return int(self.change(lambda txn: messages.append(txn, folder_id, prepared).message_id))

    def ids(self, path: str) -> list[int]:
        with self.database.read(ANNA) as read:
            return [item.message_id for item in folders.messages(read, self.folder(path))]


class Stores:
    """Stores of a tree, and the messages between them."""

    def __init__(self, place: Path, sites: str = "aa", loss: float = 0.0, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.rng, self.loss = random.Random(seed), loss
        guids = [bytes([65 + k]) * 16 for k in range(len(sites))]
        servers = {
            guid: Server(guid, f"store{k}", site, 7)
            for k, (guid, site) in enumerate(zip(guids, sites, strict=True))
        }
        pairs = [(one, other) for one, other in ("ab", "bc") if other in sites]
        connectors = tuple(Connector("".join(pair), pair, 10) for pair in pairs)
        organisation = Organisation(servers, connectors)
        self.stores = [
            Store(place / f"store{k}", guid, organisation, self.clock) for k, guid in enumerate(guids)
        ]
        self.down: set[int] = set()

    def replica(self, store: int) -> Replica:
        """The state of a store's core."""
        replicator = self[store].replicator._replicator
        assert replicator is not None
        return replicator.replica

    def start(self) -> None:
        for store in self.stores:
            store.replicator.start()
        self.wait(MINUTE_MS)

    def __getitem__(self, store: int) -> Store:
        return self.stores[store]

    def _at(self, database: bytes) -> Store | None:
        return next(
            (each for k, each in enumerate(self.stores) if each.guid == database and k not in self.down), None
        )

    def carry(self) -> None:
        """Deliver all that was sent, in some order, and what follows from it."""
        while pending := [(store, each) for store in self.stores for each in store.sent]:
            for store in self.stores:
                store.sent.clear()
            arrived: dict[bytes, list[Frame]] = {}
            for store, outgoing in pending:
                if self._at(store.guid) is not None:
                    self._send(store, outgoing, arrived)
            for database, frames in arrived.items():
                if target := self._at(database):
                    target.replicator.receive(target.gate.open(frames))

    def _send(self, store: Store, outgoing: Outgoing, arrived: dict[bytes, list[Frame]]) -> None:
        sealed = Sealer(TREE).frames_of(outgoing, SIGNERS[store.guid], self.clock.now_ms())
        is_lost = self.rng.random() < self.loss
        copies = 2 if self.rng.random() < self.loss else 1
        if not is_lost:
            frames = [Frame(store.guid, data) for data in sealed.frames * copies]
            arrived.setdefault(sealed.to, []).extend(frames)
        effect = outgoing.effect
        if isinstance(effect, Pass) and effect.label.is_for_site:
            store.replicator.sent([(effect.bundle.key, effect.label.to, sealed.size_bytes)])

    def wait(self, duration_ms: int) -> None:
        until_ms = self.clock.monotonic_ms() + duration_ms
        self.notice()
        self.carry()
        while True:
            running = [store for k, store in enumerate(self.stores) if k not in self.down]
            due = [due_ms for store in running if (due_ms := store.replicator.due_ms()) is not None]
            if not due or min(due) > until_ms:
                break
            self.clock.advance_ms(max(0, min(due) - self.clock.monotonic_ms()))
            for store in running:
                due_ms = store.replicator.due_ms()
                if due_ms is not None and due_ms <= self.clock.monotonic_ms():
                    store.replicator.tick()
            self.carry()
        self.clock.advance_ms(max(0, until_ms - self.clock.monotonic_ms()))

    def notice(self) -> None:
        for k, store in enumerate(self.stores):
            if k not in self.down:
                store.replicator.tick()

    def add_replica(self, store: int, path: str, of: int) -> None:
        held = self[store]
        folder_id = held.folder(path)
        held.change(lambda txn: public_folders.set_replica(txn, folder_id, self[of].guid, 2))

    def share(self, path: str) -> None:
        """A folder at the first store with a replica at each."""
        self[0].change(lambda txn: public_folders.create(txn, path))
        for k in range(1, len(self.stores)):
            self.add_replica(0, path, k)
        self.wait(10 * MINUTE_MS)


def tree_of(store: Store) -> dict[Any, Any]:
    """All that a store shows of the tree, by what all stores call it, with the numbers behind it."""
    shown: dict[Any, Any] = {}
    with store.database.read(ANNA) as read:
        origins = {number: replica.origin for number, replica in numbering.replicas(read)}

        def known(number: int) -> Any:
            return ChangeNumber(origins[number >> COUNTER_BITS], counter_of(number)) if number else 0

        for root in (public_folders.IPM_SUBTREE, public_folders.LOST_AND_FOUND):
            for path, record in public_folders.walk(read, "", subtree=root):
                held = any(row[0] == store.guid and row[1] == 2 for row in record.replicas)
                shown[root, path] = (
                    _numbers(record.versions, known),
                    dict(record.properties),
                    [row[:2] for row in record.replicas],
                    sorted(_message(read, item, known) for item in folders.messages(read, record.folder_id))
                    if held
                    else None,
                )
    return shown


def _numbers(versions: tuple[int, ...], known: Callable[[int], Any]) -> Any:
    """The number of a version and its context, which stores keep in the order of their own short numbers."""
    return known(versions[0]) if versions else None, sorted(known(entry) for entry in versions if entry)


def _message(read: Reader, item: Any, known: Callable[[int], Any]) -> Any:
    return (
        known(item.message_id if not item.conflict_of else item.conflict_of),
        _numbers(item.versions, known),
        messages.content(read, item),
        item.flags & ~1,
        sorted(item.keywords),
        sorted((k, v) for k, v in item.properties.items() if k != "former_folder"),
    )


def assert_equal(stores: Stores) -> None:
    """All stores show the same, and none has damage."""
    shown = [tree_of(store) for store in stores.stores]
    for other in shown[1:]:
        for key in {*shown[0], *other}:
            mine, theirs = shown[0].get(key), other.get(key)
            assert mine is not None and theirs is not None, key
            assert mine[:3] == theirs[:3]
            if mine[3] is not None and theirs[3] is not None:
                assert mine[3] == theirs[3]
    for store in stores.stores:
        store.database.finish_removals()
        assert check_database(store.database, ANNA).findings == ()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path)
    stores.start()
    yield stores
    for store in stores.stores:
        store.database.dismount()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path, "aab")
    stores.start()
    yield stores
    for store in stores.stores:
        store.database.dismount()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path, "abc")
    stores.start()
    yield stores
    for store in stores.stores:
        store.database.dismount()


def test_what_users_do_at_one_store_is_done_at_the_other(two: Stores) -> None:
    two.share("News")
    first = two[0]
    kept, gone = first.post("News", "kept"), first.post("News", "gone")
    two.wait(5_000)
    assert len(two[1].ids("News")) == 2
    first.change(lambda txn: messages.set_flags(txn, kept, add=["\\Flagged", "work"]))
    first.change(lambda txn: messages.delete(txn, gone))
    two.wait(5_000)
    assert_equal(two)
    assert len(two[1].ids("News")) == 1


def test_changes_of_before_the_joining_and_of_while_no_replicator_ran_are_found(tmp_path: Path) -> None:
    stores = Stores(tmp_path)
    stores[0].change(lambda txn: public_folders.create(txn, "Early"))
    stores[0].post("Early", "1")
    stores.start()
    stores.add_replica(0, "Early", 1)
    stores.wait(10 * MINUTE_MS)
    assert len(stores[1].ids("Early")) == 1
    stores[0].stop()
    stores[0].mount()
    stores[0].post("Early", "2")
    stores[0].replicator.start()
    stores.wait(HOUR_MS)
    assert len(stores[1].ids("Early")) == 2
    assert_equal(stores)


def test_a_replicator_that_was_not_started_takes_commands_that_go_out_with_the_next_start(
    two: Stores,
) -> None:
    two.share("News")
    first = two[0]
    first.stop()
    first.mount()
    numberings = len(own_origins(first))
    with first.database.read(ANNA) as read:
        folder = numbering.as_change_number(read, public_folders.find(read, "News").folder_id)
    outcome = first.replicator.perform(
        lambda replica: subtree.change_rights(
            replica, folder, Action.ADD, "bert", FolderRights.READ_ITEMS, "anna"
        )
    )
    assert outcome.changed_count == 1
    assert not first.sent, "nothing leaves"
    first.database.dismount()
    first.mount()
    first.replicator.start()
    two.wait(5_000)
    assert len(own_origins(first)) == numberings, "it is the numbering of before"
    with two[1].database.read(ANNA) as read:
        (entry,) = public_folders.find(read, "News").rights
    assert entry[:2] == ("bert", FolderRights.READ_ITEMS)


def own_origins(store: Store) -> list[bytes]:
    with store.database.read(ANNA) as read:
        return [origin for _, origin in numbering.own_replicas(read)]


def test_messages_and_folders_that_move_are_elsewhere_at_all_stores(three: Stores) -> None:
    three.share("News")
    three.share("Old")
    three.share("Old/Inner")
    first, second = three[0], three[1]
    moved = [first.post("News", str(k)) for k in range(3)]
    three.wait(5_000)
    old, inner = first.folder("Old"), first.folder("Old/Inner")
    for message in moved:  # twice in one go: the feed tells of the last place alone
        there = first.change(lambda txn, of=message: messages.move(txn, of, old)).message_id
        first.change(lambda txn, of=there: messages.move(txn, of, inner))
    three.wait(5_000)
    assert [len(second.ids(path)) for path in ("News", "Old", "Old/Inner")] == [0, 0, 3]
    root = public_folders.root_id
    second.change(
        lambda txn: folders.move(txn, second.folder("Old/Inner"), root(txn, public_folders.IPM_SUBTREE))
    )
    first.change(lambda txn: folders.rename(txn, old, "Older"))
    three.wait(HOUR_MS)
    assert_equal(three)
    assert len(three[2].ids("Inner")) == 3 and three[2].folder("Older")


def test_a_folder_that_is_deleted_goes_with_its_content_everywhere(three: Stores) -> None:
    three.share("News")
    first = three[0]
    for k in range(3):
        first.post("News", str(k))
    three.wait(5_000)
    first.change(lambda txn: folders.delete(txn, first.folder("News"), with_contents=True))
    first.database.finish_removals()
    three.wait(HOUR_MS)
    assert_equal(three)
    assert all(not tree_of(store) for store in three.stores)


def test_content_that_a_deletion_did_not_see_brings_its_folder_back(two: Stores) -> None:
    two.share("News")
    two.down.add(1)
    two[0].change(lambda txn: folders.delete(txn, two[0].folder("News"), with_contents=True))
    two[1].post("News", "unseen")
    two.wait(HOUR_MS)
    two.down.clear()
    two.wait(HOUR_MS)
    assert_equal(two)
    assert [path for (root, path) in tree_of(two[0]) if root == public_folders.LOST_AND_FOUND] == [("News",)]


def change_apart(two: Stores) -> None:
    """A folder that both stores change while neither hears of the other: properties, a name, and rights."""
    two.share("News")
    two.down.add(1)
    first, second = two[0], two[1]
    of_first, of_second = first.folder("News"), second.folder("News")
    first.change(lambda txn: folders.set_property(txn, of_first, "color", "red"))
    first.change(lambda txn: public_folders.set_rights(txn, of_first, "anna", 1))
    first.change(lambda txn: folders.rename(txn, of_first, "Newest"))
    two.wait(MINUTE_MS)
    second.change(lambda txn: folders.set_property(txn, of_second, "color", "blue"))
    second.change(lambda txn: folders.set_property(txn, of_second, "size", "small"))
    second.change(lambda txn: public_folders.set_rights(txn, of_second, "bert", 3))
    two.down.clear()
    two.wait(HOUR_MS)


def held_of(store: Store, folder_id: int) -> Any:
    """The versions of a folder that a store has records of, deletions too, by what all stores call them."""
    found = set()
    with store.database.read(ANNA) as read:
        for table in (Table.FOLDER, Table.TOMBSTONE):
            for _, record in read.records(table, b"", None):
                is_version = record.versions and record.versions[0]
                named = (
                    record.object_id if table == Table.TOMBSTONE else record.conflict_of or record.folder_id
                )
                if is_version and named == folder_id and getattr(record, "hidden", 0) != Hidden.REMOVED:
                    found.add(numbering.as_change_number(read, record.versions[0]))
    return found


def test_a_folder_that_was_changed_in_two_places_shows_both_changes_at_all_stores(two: Stores) -> None:
    change_apart(two)
    assert_equal(two)
    for store in two.stores:
        with store.database.read(ANNA) as read:
            record = public_folders.find(read, "Newest")
        assert record.properties == {"color": "blue", "size": "small"}
        assert [row[:2] for row in record.rights] == [("anna", 1), ("bert", 3)]
        assert len(held_of(store, record.folder_id)) == 2  # noticing it spends no number


def test_a_property_that_one_store_removed_is_not_brought_back_by_the_older_one_of_another(
    two: Stores,
) -> None:
    two.share("News")
    first, second = two[0], two[1]
    of_first, of_second = first.folder("News"), second.folder("News")
    for name in ("color", "size"):
        first.change(lambda txn, name=name: folders.set_property(txn, of_first, name, "old"))
    two.wait(MINUTE_MS)
    two.down.add(1)
    for name in ("color", "size"):
        first.change(lambda txn, name=name: folders.set_property(txn, of_first, name, None))
    two.wait(MINUTE_MS)
    second.change(lambda txn: folders.set_property(txn, of_second, "size", "set again later"))
    two.down.clear()
    two.wait(HOUR_MS)
    assert_equal(two)
    for store in two.stores:
        with store.database.read(ANNA) as read:
            assert public_folders.find(read, "News").properties == {"size": "set again later"}
    first.change(lambda txn: folders.set_property(txn, of_first, "shape", "round"))
    two.wait(HOUR_MS)
    assert_equal(two)
    with second.database.read(ANNA) as read:
        found = public_folders.find(read, "News").properties
    assert found == {"size": "set again later", "shape": "round"}


@pytest.mark.parametrize("of", [0, 1])
def test_a_change_of_a_folder_takes_the_place_of_all_versions_that_its_store_held(
    two: Stores, of: int
) -> None:
    change_apart(two)
    store = two[of]
    folder_id = store.folder("Newest")
    store.change(lambda txn: folders.set_property(txn, folder_id, "shape", "round"))
    assert len(held_of(store, folder_id)) == 1
    two.wait(HOUR_MS)
    assert_equal(two)
    with two[1 - of].database.read(ANNA) as read:
        record = public_folders.find(read, "Newest")
    assert record.properties == {"color": "blue", "size": "small", "shape": "round"}
    assert [row[:2] for row in record.rights] == [("anna", 1), ("bert", 3)]
    assert held_of(two[1 - of], record.folder_id) == held_of(store, folder_id)


@pytest.mark.parametrize("of", [0, 1])
def test_a_deletion_of_a_folder_takes_the_place_of_all_versions_that_its_store_held(
    two: Stores, of: int
) -> None:
    change_apart(two)
    store = two[of]
    folder_id = store.folder("Newest")
    store.change(lambda txn: folders.delete(txn, folder_id, with_contents=True))
    assert len(held_of(store, folder_id)) == 1
    two.wait(HOUR_MS)
    assert_equal(two)
    assert all(not tree_of(each) for each in two.stores)


def test_a_change_of_a_folder_takes_the_place_of_a_deletion_that_had_not_seen_it(two: Stores) -> None:
    two.share("News")
    two.down.add(1)
    second = two[1]
    two[0].change(lambda txn: folders.delete(txn, two[0].folder("News"), with_contents=True))
    two.wait(MINUTE_MS)
    folder_id = second.folder("News")
    second.change(lambda txn: folders.rename(txn, folder_id, "Kept"))
    two.down.clear()
    two.wait(HOUR_MS)
    assert [len(held_of(store, store.folder("Kept"))) for store in two.stores] == [2, 2]
    second.change(lambda txn: folders.set_property(txn, folder_id, "color", "red"))
    assert len(held_of(second, folder_id)) == 1
    two.wait(HOUR_MS)
    assert_equal(two)
    assert held_of(two[0], two[0].folder("Kept")) == held_of(second, folder_id)


def test_a_new_replica_gets_what_was_there(three: Stores) -> None:
    three[0].change(lambda txn: public_folders.create(txn, "News"))
    for k in range(20):
        three[0].post("News", str(k))
    three.wait(MINUTE_MS)
    three.add_replica(0, "News", 2)
    three.wait(10 * MINUTE_MS)
    assert len(three[2].ids("News")) == 20
    assert_equal(three)


def test_a_new_replica_refuses_that_its_folder_is_deleted_until_it_holds_all(two: Stores) -> None:
    first, second = two[0], two[1]
    first.change(lambda txn: public_folders.create(txn, "News"))
    first.post("News", "1")
    two.wait(MINUTE_MS)
    with pytest.raises(NoReplica, match="holds no replica"):
        second.post("News", "2")
    two.down.add(0)
    two.add_replica(1, "News", 1)
    two.wait(5_000)
    second.post("News", "2")
    with pytest.raises(NoReplica, match="lacks some"):
        second.change(lambda txn: folders.delete(txn, second.folder("News"), with_contents=True))
    two.down.clear()
    two.wait(HOUR_MS)
    assert len(first.ids("News")) == len(second.ids("News")) == 2
    second.change(lambda txn: folders.delete(txn, second.folder("News"), with_contents=True))
    two.wait(HOUR_MS)
    assert_equal(two)


def test_a_store_that_was_killed_goes_on_above_what_may_have_been_lost(two: Stores) -> None:
    two.share("News")
    first = two[0]
    first.post("News", "1")
    two.wait(5_000)
    first.copy(first.place.with_name("killed"))
    first.go_back(first.place.with_name("killed"))
    before = first.post("News", "2")
    first.replicator.start()
    two.wait(MINUTE_MS)
    after = first.post("News", "3")
    two.wait(HOUR_MS)
    assert counter_of(after) - counter_of(before) > 65_536
    assert before >> COUNTER_BITS == after >> COUNTER_BITS
    assert_equal(two)
    assert len(two[1].ids("News")) == 3


def lose_the_maker_while_a_copy_waits(chain: Stores) -> None:
    """A post that its maker has a receipt for, of a store that hands it on and holds no replica itself."""
    first, between = chain[0], chain[1]
    first.change(lambda txn: public_folders.create(txn, "News"))
    chain.add_replica(0, "News", 2)
    chain.wait(10 * MINUTE_MS)
    chain.down.add(2)
    first.post("News", "late")
    chain.wait(MINUTE_MS)
    assert not chain.replica(0).record.folders[folder_of(first, "News")].marks  # the receipt came
    chain.down.add(0)
    between.copy(between.place.with_name("killed"))
    between.go_back(between.place.with_name("killed"))
    between.replicator.start()
    chain.down.discard(2)
    chain.wait(HOUR_MS)
    assert len(chain[2].ids("News")) == 1


def test_a_copy_that_a_receipt_was_given_for_outlasts_the_store_being_killed(
    chain: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_copies, "SLICE_BYTES", 100)
    lose_the_maker_while_a_copy_waits(chain)
    chain.down.clear()
    chain.wait(HOUR_MS)
    assert_equal(chain)
    assert not any(chain.replica(1).record.passing.values())
    with chain[1].database.read(ANNA) as read:
        kept = [list(replication_state.all_kept(read, kind)) for kind in (Kept.COPY, Kept.COPY_SLICE)]
    assert kept == [[], []]


def test_held_in_memory_alone_the_copy_is_lost(chain: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldCopies, "keep", lambda *args: None)
    with pytest.raises(AssertionError):
        lose_the_maker_while_a_copy_waits(chain)


@pytest.mark.parametrize(
    ("way", "reason"), [("told", Return.RESTORED), ("fence", Return.OTHER_MOUNT), ("hello", None)]
)
def test_a_store_that_goes_back_in_time_numbers_anew_and_gets_what_it_lost(
    two: Stores, way: str, reason: Return | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.share("News")
    first = two[0]
    first.post("News", "1")
    two.wait(5_000)
    first.copy(first.place.with_name("old"))
    old_fence = first.fence.path.read_bytes()
    first.change(lambda txn: txn.leave_out_numbers(txn.counter + 1_000))  # as after an unclean end
    lost = first.post("News", "2")
    two.wait(5_000)
    if way == "fence":
        first.stop()
        first.mount()
        first.replicator.start()
        two.wait(5_000)
    first.go_back(first.place.with_name("old"))
    if way == "told":
        first.tell_restored()
    if way == "hello":
        first.fence.path.write_bytes(old_fence)
    seen: list[Return | None] = []
    decide = identity.reason_to_number_anew

    def look(*of: Any) -> Return | None:
        seen.append(decide(*of))
        return seen[-1]

    with monkeypatch.context() as watched:
        watched.setattr(identity, "reason_to_number_anew", look)
        first.replicator.start()
    assert seen == [reason], "or another way than the one that is tried would find it"
    two.wait(MINUTE_MS)
    again = first.post("News", "3")
    assert again >> COUNTER_BITS != lost >> COUNTER_BITS
    two.wait(HOUR_MS)
    assert_equal(two)
    assert len(first.ids("News")) == 3


def test_before_the_hello_is_complete_changes_are_numbered_under_a_new_replica_guid(two: Stores) -> None:
    two.share("News")
    first = two[0]
    old = first.post("News", "1")
    first.stop()
    first.mount()
    two.down.add(1)
    first.replicator.start()
    two.wait(MINUTE_MS)
    alone = first.post("News", "2")
    assert alone >> COUNTER_BITS != old >> COUNTER_BITS
    two.wait(MINUTE_MS)
    assert first.replicator.explain(TREE.hierarchy).waits_for == (two[1].guid,)
    two.down.clear()
    two.wait(HOUR_MS)
    later = first.post("News", "3")
    assert later >> COUNTER_BITS == alone >> COUNTER_BITS
    two.wait(HOUR_MS)
    assert_equal(two)


def copy_while_others_change(two: Stores) -> None:
    two.share("News")
    two.share("Top")
    first = two[0]
    for k in range(150):
        first.post("News", str(k))
    two.wait(MINUTE_MS)
    posted: list[int] = []

    def meanwhile(progress: object) -> None:
        posted.append(first.post("News", f"meanwhile {len(posted)}"))
        first.change(lambda txn: public_folders.create(txn, f"Beside {len(posted)}"))
        two.wait(10 * MINUTE_MS)

    copying.copy_folder(
        first.database, ANNA, first.folder("News"), first.folder("Top"), "Copy", progress=meanwhile
    )
    assert len(posted) > 1
    two.wait(HOUR_MS)
    assert_equal(two)
    assert len(two[1].ids("Top/Copy")) == 150


def test_a_copy_of_a_folder_that_is_visible_late_is_known_then_and_not_before(two: Stores) -> None:
    copy_while_others_change(two)


def test_claimed_before_they_are_visible_the_numbers_of_a_copy_are_lost(
    two: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withheld, "not_told_yet", lambda reader: CNSet())
    with pytest.raises(AssertionError):
        copy_while_others_change(two)


def test_a_call_that_fails_has_done_nothing_and_the_next_one_goes_on(two: Stores) -> None:
    two.share("News")
    first = two[0]
    first.post("News", "1")
    handed = first.database.transaction

    def full(actor: Actor) -> Any:
        raise PillarboxError("the disk is full")

    first.database.transaction = full  # type: ignore[method-assign]
    with pytest.raises(PillarboxError, match="full"):
        first.replicator.tick()
    first.database.transaction = handed  # type: ignore[method-assign]
    two.wait(HOUR_MS)
    assert len(two[1].ids("News")) == 1
    assert_equal(two)


def test_one_message_that_a_store_cannot_take_is_set_aside_and_tried_again(
    two: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.share("News")
    taken = apply_messages.apply

    def refusing(txn: WriteTransaction, folder_id: int, message_id: int, *others: Any, **more: Any) -> bool:
        changed = taken(txn, folder_id, message_id, *others, **more)
        if txn.files.guid == two[1].guid and message_id & COUNTER_MAX == counter_of(bad):
            raise Corrupt("a row of it is damaged", table="item", key=b"k")  # when some of it is stored
        return changed

    posted = [two[0].post("News", str(k)) for k in range(3)]
    bad = posted[1]
    monkeypatch.setattr(apply_messages, "apply", refusing)
    two.wait(5_000)
    assert len(two[1].ids("News")) == 2
    explained = two[1].replicator.explain(folder_of(two[1], "News"))
    assert [(each.reason, each.tries) for each in explained.set_aside] == [("a row of it is damaged", 0)]
    assert not explained.is_in_sync
    two[1].stop()
    two[1].mount()
    two[1].replicator.start()
    two.wait(HOUR_MS)
    assert two[1].replicator.explain(folder_of(two[1], "News")).set_aside[0].tries > 1
    monkeypatch.setattr(apply_messages, "apply", taken)
    two.wait(10 * HOUR_MS)
    assert len(two[1].ids("News")) == 3
    assert not two[1].replicator.explain(folder_of(two[1], "News")).set_aside
    assert_equal(two)


def test_a_change_under_one_numbering_too_many_is_set_aside_with_an_event(
    two: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.share("News")
    two[0].change(lambda txn: public_folders.create(txn, "Other"))
    two.wait(HOUR_MS)
    first, second = two[0], two[1]
    second.database.reporter = events = Events()
    given = numbering.replica_number

    def full(txn: WriteTransaction, origin: bytes, *of: Any) -> int:
        known = {record.origin for _, record in numbering.replicas(txn)}
        if txn.files.guid == second.guid and origin not in known:
            raise OverLimit("65535 replicas are known")
        return given(txn, origin, *of)

    monkeypatch.setattr(numbering, "replica_number", full)

    def number_anew(txn: WriteTransaction) -> None:
        txn.restored = True
        folders.set_property(txn, public_folders.find(txn, "Other").folder_id, "color", "red")

    first.change(number_anew)
    first.post("News", "of a new numbering")
    second.post("News", "of an old one")
    two.wait(HOUR_MS)
    assert len(first.ids("News")) == 2 and len(second.ids("News")) == 1
    (aside,) = second.replicator.explain(folder_of(second, "News")).set_aside
    assert aside.reason == "65535 replicas are known"
    ids = [event.event_id for event in events.events]
    assert ids == [EventId.REPLICATION_NEEDS_ATTENTION] * 2  # of the folder, and of the message
    monkeypatch.undo()
    two.wait(10 * HOUR_MS)
    assert_equal(two)


def test_a_batch_of_which_all_was_refused_begins_no_transaction(two: Stores) -> None:
    first = two[0]
    batch = first.gate.open([Frame(two[1].guid, b"nothing")])
    first.database.dismount()
    first.replicator.receive(batch)
    first.database.mount()


class Events:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


def folder_of(store: Store, path: str) -> ObjectId:
    """The id of a folder as all stores know it."""
    with store.database.read(ANNA) as read:
        return numbering.as_change_number(read, public_folders.find(read, path).folder_id)


# -- seeds


class Users:
    """Users, administrators and faults at random."""

    def __init__(self, stores: Stores, place: Path, seed: int) -> None:
        self.stores, self.place, self.rng = stores, place, random.Random(seed)
        self.copies: dict[int, Path] = {}

    def step(self) -> None:
        store = self.rng.choice([each for k, each in enumerate(self.stores.stores)])
        k = self.stores.stores.index(store)
        if k in self.stores.down:
            if self.rng.random() < 0.5:
                store.mount()
                store.replicator.start()
                self.stores.down.discard(k)
            return
        draw = self.rng.random()
        if draw < 0.06:
            self.fault(k, store)
        else:
            with suppress(AlreadyExists, Refused):
                self.change(store)

    def fault(self, k: int, store: Store) -> None:
        kind = self.rng.choice(("stop", "kill", "kill", "copy", "copy", "restore"))
        if kind == "stop":
            store.stop()
            self.stores.down.add(k)
        elif kind == "kill":
            store.copy(self.place / "killed")
            store.go_back(self.place / "killed")
            store.replicator.start()
        elif kind == "copy":
            self.copies[k] = self.place / f"copy {k}"
            store.copy(self.copies[k])
        elif k in self.copies:
            store.go_back(self.copies[k])
            store.tell_restored()
            store.replicator.start()

    def change(self, store: Store) -> None:
        held = [path for (root, path), row in tree_of(store).items() if root == IPM and row[3] is not None]
        draw = self.rng.random()
        if not held or (draw < 0.12 and len(held) < 6):
            inside = "/".join((*self.rng.choice(held or [()]), f"f{self.rng.randrange(9)}"))
            store.change(lambda txn: public_folders.create(txn, inside))
            return
        path = "/".join(self.rng.choice(held))
        ids = store.ids(path)
        folder_id = store.folder(path)
        if draw < 0.24:
            other = self.rng.choice(self.stores.stores).guid
            store.change(lambda txn: public_folders.set_replica(txn, folder_id, other, 2))
        elif draw < 0.27:
            store.change(lambda txn: folders.delete(txn, folder_id, with_contents=True))
        elif draw < 0.32:
            store.change(lambda txn: folders.rename(txn, folder_id, f"f{self.rng.randrange(9)}"))
        elif draw < 0.36:
            parent = store.folder("/".join(self.rng.choice(held)))
            store.change(lambda txn: folders.move(txn, folder_id, parent))
        elif draw < 0.39:
            self.copy(store, folder_id, store.folder("/".join(self.rng.choice(held))))
        elif not ids or draw < 0.65:
            store.post(path, str(self.rng.random()))
        elif draw < 0.75:
            store.change(lambda txn: messages.delete(txn, self.rng.choice(ids)))
        elif draw < 0.85:
            target = store.folder("/".join(self.rng.choice(held)))
            store.change(lambda txn: messages.move(txn, self.rng.choice(ids), target))
        else:
            word = self.rng.choice(("work", "home", "\\Flagged"))
            store.change(lambda txn: messages.set_flags(txn, self.rng.choice(ids), add=[word]))

    def copy(self, store: Store, folder_id: int, target: int) -> None:
        def meanwhile(progress: object) -> None:
            self.stores.wait(self.rng.choice((100, MINUTE_MS)))

        copying.copy_folder(
            store.database, ANNA, folder_id, target, f"c{self.rng.randrange(99)}", progress=meanwhile
        )


IPM = public_folders.IPM_SUBTREE


def run_seed(place: Path, seed: int, steps: int, hours: int) -> None:
    stores = Stores(place, "aab", loss=0.1, seed=seed)
    stores.start()
    users = Users(stores, place, seed)
    for _ in range(steps):
        users.step()
        stores.wait(users.rng.choice((10, 500, 30_000, 5 * MINUTE_MS)))
    stores.loss = 0.0
    for k in sorted(stores.down):
        stores[k].mount()
        stores[k].replicator.start()
    stores.down.clear()
    stores.wait(hours * HOUR_MS)
    assert_equal(stores)
    for store in stores.stores:
        store.database.dismount()


@pytest.mark.parametrize("seed", range(1))
def test_stores_that_users_change_become_equal(seed: int, tmp_path: Path) -> None:
    run_seed(tmp_path, seed, 20, 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_campaign_of_stores_that_users_change(seed: int, tmp_path: Path) -> None:
    run_seed(tmp_path, seed, 120, 30)
