"""Real public folder stores under the replicator hold what its stores made of dicts hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pillarbox.replication.core.objects import Found
from pillarbox.replication.core.replica import ReplicaRecord
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.knowledge import Knowledge
from pillarbox.replication.ground.records import (
    REMOVED,
    Entry,
    FolderVersion,
    MessageVersion,
    ObjectId,
    ReplicaState,
    Tree,
)
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.stored_objects import StoredObjects
from pillarbox.replication.node.stored_record import StoredRecord
from pillarbox.replication.simulation import operations, world
from pillarbox.replication.simulation.machine import Copy, Machine
from pillarbox.replication.simulation.objects import DictObjects, FolderObjects
from pillarbox.replication.simulation.scenario import Scenario, Settings
from pillarbox.store.access import Actor
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.engine.transaction_blocks import TransactionBlock
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.mail import messages
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import join

ACTOR = Actor.task("replication")
TREE = Tree(b"t" * 16)
A, B = b"a" * 16, b"b" * 16
TUNING = Tuning(remove_beside=False)
CONTENTS: dict[bytes, bytes] = {}


def content(rng: random.Random) -> tuple[bytes, int]:
    """Some new message, small and real."""
    raw = b"Subject: %s\r\n\r\n" % rng.randbytes(8).hex().encode()
    CONTENTS[digest_of(raw)] = raw
    return digest_of(raw), len(raw)


def owner_of(origin: bytes) -> tuple[bytes, int]:
    """The database and incarnation of a replica GUID; the tree's own GUID is none."""
    assert origin != TREE.guid
    return origin, 1


def store_at(path: Path, guid: bytes) -> Database:
    made = Database(
        path,
        guid,
        path.name,
        DatabaseKind.PUBLIC_FOLDER_STORE,
        clock=VirtualClock(),
        rng=random.Random(guid),
        tuning=TUNING,
    )
    if not path.exists():
        made.create()
    made.mount()
    return made


class HeldAgainst(DictObjects):
    """Objects in dicts and in a real store, each answer of one held against the other's."""

    def __init__(self, real: RealStore, folders: dict[ObjectId, FolderObjects] | None = None) -> None:
        super().__init__(folders)
        self._real = real

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        expected = super().get(folder, object_id)
        assert self._real.objects.get(folder, object_id) == expected
        return expected

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        super().put(folder, object_id, versions)
        self._real.objects.put(folder, object_id, versions)
        assert self._real.objects.get(folder, object_id) == versions

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        super().remove(folder, object_id)
        self._real.objects.remove(folder, object_id)

    def ids(self, folder: ObjectId) -> list[ObjectId]:
        expected = super().ids(folder)
        assert self._real.objects.ids(folder) == expected
        return expected

    def entries(self, folder: ObjectId) -> CNSet:
        expected = super().entries(folder)
        assert self._real.objects.entries(folder) == expected
        return expected

    def entries_from(self, folder: ObjectId, first: ChangeNumber) -> CNSet:
        expected = super().entries_from(folder, first)
        assert self._real.objects.entries_from(folder, first) == expected
        return expected

    def found(self, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> list[ObjectId]:
        expected = super().found(folder, numbers, limit)
        assert self._real.objects.found(folder, numbers, limit) == expected
        return expected

    def figures_found(self, folder: ObjectId, numbers: CNSet) -> Found:
        expected, told = (
            super().figures_found(folder, numbers),
            self._real.objects.figures_found(folder, numbers),
        )
        shown = [self._folders[folder].objects[each].live() for each in super().found(folder, numbers)]
        if any(len(versions) > 1 for versions in shown):  # of which the real store shows one of another size
            expected = expected._replace(size_bytes=told.size_bytes)
        assert told == expected
        return expected

    def clear(self, folder: ObjectId) -> None:
        super().clear(folder)
        self._real.objects.clear(folder)


class RealStore:
    """A public folder store with one transaction open, in which the objects are."""

    def __init__(self, path: Path, guid: bytes, tree: Tree) -> None:
        self.path, self._guid, self._tree = path, guid, tree
        self.database = store_at(path, guid)
        join(self.database, ACTOR, tree.guid)
        self._block: TransactionBlock | None = None
        self._objects: StoredObjects | None = None
        self._txn: WriteTransaction | None = None

    @property
    def objects(self) -> StoredObjects:
        if self._objects is None:
            block = self.database.transaction(ACTOR)
            assert isinstance(block, TransactionBlock)
            self._block = block
            self._txn = txn = block.__enter__()
            self._objects = StoredObjects(txn, self._tree, owner_of, CONTENTS.__getitem__)
        return self._objects

    def keep(self, record: ReplicaRecord, folders: Iterable[ObjectId]) -> None:
        objects = self.objects
        assert self._txn is not None
        stored = StoredRecord()
        stored.load(self._txn, objects.identifiers)
        stored.save(self._txn, objects.identifiers, record, folders)

    def record(self) -> ReplicaRecord:
        objects = self.objects
        assert self._txn is not None
        found = StoredRecord().load(self._txn, objects.identifiers)
        assert found is not None
        return durable(found)

    def commit(self) -> None:
        block, self._block, self._objects = self._block, None, None
        if block is not None:
            block.__exit__(None, None, None)

    def undo(self) -> None:
        block, self._block, self._objects = self._block, None, None
        if block is not None:
            error = InterruptedError("the machine crashes")
            block.__exit__(InterruptedError, error, None)

    def copy(self, path: Path) -> None:
        """Copy the files as they are, as of a machine that is cut off."""
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)

    def restore(self, path: Path) -> None:
        self.undo()
        self.database.dismount()
        shutil.rmtree(self.path)
        shutil.copytree(path, self.path)
        self.database = store_at(self.path, self._guid)


def durable(record: ReplicaRecord) -> ReplicaRecord:
    """The part of a record that outlives a restart, which plans all that is due anew."""
    states = {}
    for folder, state in record.folders.items():
        knowledge = state.knowledge
        states[folder] = FolderState(
            is_held=state.is_held,
            life=state.life,
            own_last=state.own_last,
            broadcast_to=state.broadcast_to,
            applied=state.applied,
            rows=dict(state.rows),
            leaving=replace(state.leaving, due_ms=0),
            expired_objects=dict(state.expired_objects),
            marks=dict(state.marks),
            knowledge=Plain(knowledge.known, knowledge.expired, knowledge.purged),
        )
    return replace(record, folders=states, passing={})


class Plain(Knowledge):
    """Knowledge that compares by its sets."""

    def __eq__(self, other: object) -> bool:
        mine = self.known, self.expired, self.purged
        return isinstance(other, Knowledge) and mine == (other.known, other.expired, other.purged)

    __hash__ = None  # type: ignore[assignment]


class RealMachine(Machine):
    """A machine whose objects are in a real store too; copies of its disk are copies of the store's files."""

    directory: Path
    made: list[RealMachine]
    copies_count = 0

    def __init__(self, sender: Any, tree: Tree, *others: Any) -> None:
        self.real = RealStore(self.directory / sender.database.hex(), sender.database, tree)
        self._copies: list[tuple[Copy, Path]] = []
        super().__init__(sender, tree, *others)
        self._keep_all()
        self.made.append(self)

    def _mount(self, record: Any, objects: DictObjects) -> None:
        super()._mount(record, HeldAgainst(self.real, objects.snapshot()))

    def commit(self) -> None:
        touched = self._uncommitted & self.record.folders.keys()
        super().commit()
        self.real.keep(self.disk.record, touched)
        self.real.commit()
        assert self.real.record() == durable(self.disk.record)

    def crash(self) -> CNSet:
        left_out = super().crash()
        self._keep_all()
        return left_out

    def restore(self, copy: Copy) -> None:
        super().restore(copy)
        self._keep_all()

    def put_back(self, copy: Copy, *, was_running: bool) -> None:
        super().put_back(copy, was_running=was_running)
        self._keep_all()

    def begin_elsewhere(self, copy: Copy, *, with_fence: bool) -> None:
        super().begin_elsewhere(copy, with_fence=with_fence)
        self._keep_all()

    def _keep_all(self) -> None:
        self.real.keep(self.record, self.record.folders)
        self.real.commit()

    def _go_back_to(self, copy: Copy) -> None:
        place = next((path for held, path in self._copies if held is copy), None)
        if copy is self.disk:
            self.real.undo()
        elif place is None:
            raise AssertionError("no such copy was made")
        else:
            self.real.restore(place)
        assert self.real.record() == durable(copy.record)
        super()._go_back_to(copy)

    def copy(self) -> Copy:
        copied = super().copy()
        RealMachine.copies_count += 1
        place = self.directory / f"copy {RealMachine.copies_count}"
        # What is not committed is in no file yet.
        self.real.copy(place)
        self._copies.append((copied, place))
        return copied


@pytest.fixture
def real_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RealMachine]]:
    """Machines of organisations have real stores within the test."""
    made: list[RealMachine] = []
    monkeypatch.setattr(RealMachine, "directory", tmp_path, raising=False)
    monkeypatch.setattr(RealMachine, "made", made, raising=False)
    monkeypatch.setattr(world, "Machine", RealMachine)
    monkeypatch.setattr(operations, "content", content)
    CONTENTS.clear()
    yield made
    for machine in made:
        machine.real.undo()
        machine.real.database.dismount()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_organisations_of_real_stores_become_equal(seed: int, real_machines: list[RealMachine]) -> None:
    run(seed, real_machines, steps=100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_campaign_of_real_stores(seed: int, real_machines: list[RealMachine]) -> None:
    run(seed, real_machines, steps=250)


def run(seed: int, real_machines: list[RealMachine], steps: int) -> None:
    figures = Scenario(seed, Settings(stores=3, sites=2, steps=steps)).run()
    assert not figures.violation
    assert len(real_machines) >= 3 and CONTENTS
    for machine in real_machines:
        machine.real.commit()
        machine.real.database.finish_removals()
        assert check_database(machine.real.database, ACTOR).findings == ()
        for folder, held in machine.objects._folders.items():
            for object_id, versions in held.objects.items():
                assert machine.real.objects.get(folder, object_id) == versions
            if folder != machine.tree.hierarchy:
                for count in range(0, len(held.index), 1 + len(held.index) // 5):
                    machine.objects.figures_found(folder, CNSet.of(sorted(held.index)[count:]))


# -- one object


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealStore]:
    made = RealStore(tmp_path / "store", b"s" * 16, TREE)
    yield made
    made.undo()
    made.database.dismount()


def stamp(counter: int, origin: bytes = A) -> Stamp:
    return Stamp(1_000_000_000_000, counter, origin)


FOLDER = ChangeNumber(A, 1)
MESSAGE = ChangeNumber(B, 7)


def a_folder(**fields: Any) -> Versions[FolderVersion]:
    made: dict[str, Any] = {
        "changed": stamp(1),
        "actor": "anna",
        "name": Entry(stamp(1), "News"),
        "parent": Entry(stamp(1), TREE.root),
        "replicas": {B: Entry(stamp(1, B), ReplicaState.ACTIVE)},
    }
    return Versions.first(FOLDER, FolderVersion(**{**made, **fields}))


def test_flags_keywords_categories_and_properties_are_entries_and_what_clients_see(real: RealStore) -> None:
    digest, size = content(random.Random(1))
    entries: Iterable[tuple[str, str]] = [
        ("\\Flagged", "1"),
        ("\\Answered", ""),
        ("keyword work", "Work"),
        ("keyword home", ""),
        ("category red", "1"),
        ("p", "v"),
        ("q", ""),
        ("r", REMOVED),
        ("property keyword x", "y"),
    ]
    for later in (0, 1):
        properties = {name: Entry(stamp(2 + later), value) for name, value in sorted(entries)}
        version = MessageVersion(stamp(2), "anna", digest, size, properties)
        wanted = Versions({A: 3, B: 7}, {ChangeNumber(A, 2 + later): version})
        real.objects.put(TREE.hierarchy, FOLDER, a_folder())
        real.objects.put(FOLDER, MESSAGE, wanted)
        assert real.objects.get(FOLDER, MESSAGE) == wanted
    real.commit()
    with real.database.read(ACTOR) as read:
        ((_, item),) = read.records(Table.ITEM, b"", None)
        assert messages.flag_names(item) == ("\\Flagged", "Work")
        assert item.categories == ("red",)
        assert item.properties == {"p": "v", "q": "", "keyword x": "y"}


def test_properties_and_permissions_of_a_folder_are_entries(real: RealStore) -> None:
    wanted = a_folder(
        properties={
            "p": Entry(stamp(1), "v"),
            "q": Entry(stamp(1), REMOVED),
            "r": Entry(stamp(8, B), REMOVED),
            "rights bert": Entry(stamp(9, B), "3"),
        },
        parent=Entry(stamp(5, B), ChangeNumber(B, 99)),
        cleared=CNSet.full(B, 3),
    )
    real.objects.put(TREE.hierarchy, FOLDER, wanted)
    assert real.objects.get(TREE.hierarchy, FOLDER) == wanted
    real.objects.remove(TREE.hierarchy, FOLDER)
    assert real.objects.get(TREE.hierarchy, FOLDER) is None


def test_the_folder_of_the_organisation_is_kept_under_the_id_that_all_stores_have_for_it(
    real: RealStore,
) -> None:
    properties = {"server/x/name": Entry(stamp(1), "b1"), "connector/c/cost": Entry(stamp(2, B), "")}
    versions = a_folder(
        name=Entry(stamp(1), "organisation"),
        parent=Entry(stamp(1), TREE.system_root),
        replicas={},
        properties=properties,
    )
    real.objects.put(TREE.hierarchy, TREE.organisation, versions)
    real.commit()
    assert real.objects.get(TREE.hierarchy, TREE.organisation) == versions
    assert real.objects.ids(TREE.hierarchy) == [TREE.organisation]
    assert check_database(real.database, ACTOR).findings == ()


def test_content_of_a_folder_that_is_gone_is_kept_for_the_core_to_decide(real: RealStore) -> None:
    digest, size = content(random.Random(1))
    wanted = Versions.first(MESSAGE, MessageVersion(stamp(2, B), "bert", digest, size))
    real.objects.put(FOLDER, MESSAGE, wanted)
    assert real.objects.get(FOLDER, MESSAGE) == wanted
    real.objects.put(TREE.hierarchy, FOLDER, a_folder())
    real.commit()
    real.database.finish_removals()
    assert real.objects.get(FOLDER, MESSAGE) == wanted
    real.commit()
    assert check_database(real.database, ACTOR).findings == ()
