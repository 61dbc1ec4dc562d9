"""Folders of other stores: what is applied is there; what cannot be shown so is shown alike everywhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine import change_feed, numbering
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import InvalidArgument, NotFound, Refused
from pillarbox.store.events import Event, EventId
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import apply_folders, folders, messages
from pillarbox.store.mail.apply_folders import FolderState
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.repair import repair_database
from tests.shared.trees import ACTOR, B, C, Tree, state

if TYPE_CHECKING:
    from conftest import OpenDatabase

IDS = [B | 100, C | 100, B | 200, C | 200, B | 300]


@pytest.fixture
def tree(open_database: OpenDatabase) -> Tree:
    return Tree(open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE))


def test_a_folder_comes_under_its_own_id_with_its_replica_list_and_permissions(tree: Tree) -> None:
    with tree.database.read(ACTOR) as read:
        before = change_feed.changes(read, CNSet()).cnset
    wanted = state(tree.version(B | 100, properties={"p": 1}, cleared=CNSet().encode()))
    assert tree.apply(B | 100, wanted) and not tree.apply(B | 100, wanted)
    assert tree.state(B | 100) == wanted
    record = tree.folder(B | 100)
    assert (record.name, record.parent_id, record.written) == ("News", tree.root_id, ())
    assert record.arrived_cn >> COUNTER_BITS == 1 == record.change_cn >> COUNTER_BITS
    with tree.database.read(ACTOR) as read:
        (told,) = change_feed.changes(read, before)
        assert (told.kind, told.object_id) == (change_feed.ChangeKind.NEW, B | 100)
    with tree.database.transaction(ACTOR) as txn:
        item = messages.append(txn, B | 100, messages.prepare(tree.database.files, b"a"))
        assert item.uid == 1 and folders.rename(txn, B | 100, "Other").versions[1:] == (B | 100,)
    assert check_database(tree.database, ACTOR).clean


def test_a_folder_whose_parent_is_not_here_waits_for_it_in_lost_and_found(tree: Tree) -> None:
    tree.apply(B | 100, state(tree.version(B | 100, "Sub", C | 100)))
    assert tree.shown()[B | 100] == "Lost and Found: Sub"
    assert tree.state(B | 100) == state(tree.version(B | 100, "Sub", C | 100))
    tree.apply(C | 100, state(tree.version(C | 100, "Top")))
    assert tree.shown()[B | 100] == "IPM_SUBTREE: Top/Sub"
    assert check_database(tree.database, ACTOR).clean


def test_a_folder_whose_parent_is_deleted_stands_in_lost_and_found(tree: Tree) -> None:
    tree.apply(C | 100, state(tree.version(C | 100, "Top")))
    tree.apply(B | 100, state(tree.version(B | 100, "Sub", C | 100)))
    events: list[Event] = []
    tree.database.reporter = type("Reporter", (), {"report": staticmethod(events.append)})()
    tree.apply(C | 100, state(tree.version(C | 101, "Top", gone=True)))
    (told,) = events
    assert told.event_id == EventId.FOLDER_DELETED_ELSEWHERE
    assert told.details == {"folder": "Top", "folder_id": "3-64", "account": "bert"}
    assert tree.shown() == {B | 100: "Lost and Found: Sub"}
    tree.database.finish_removals()
    assert check_database(tree.database, ACTOR).clean


def test_of_a_circle_of_moves_the_latest_stands_in_lost_and_found_whichever_comes_first(tree: Tree) -> None:
    one = state(tree.version(B | 105, "One", C | 100))
    other = state(tree.version(C | 109, "Other", B | 100))
    for name, folder_id in (("One", B | 100), ("Other", C | 100)):
        tree.apply(folder_id, state(tree.version(folder_id, name)))
    tree.apply(C | 100, other)
    tree.apply(B | 100, one)
    expected = {C | 100: "Lost and Found: Other", B | 100: "Lost and Found: Other/One"}
    assert tree.shown() == expected
    assert (tree.state(B | 100), tree.state(C | 100)) == (one, other)
    assert check_database(tree.database, ACTOR).clean


def test_of_two_moves_of_one_moment_the_origin_decides_whatever_number_a_store_has_for_it(tree: Tree) -> None:
    with tree.database.transaction(ACTOR) as txn:
        a = numbering.replica_number(txn, b"a" * 16, b"a" * 16, 1) << COUNTER_BITS
    assert a > B
    for name, folder_id in (("One", B | 100), ("Other", a | 100)):
        tree.apply(folder_id, state(tree.version(folder_id, name)))
    tree.apply(a | 100, state(tree.version(a | 107, "Other", B | 100)))
    tree.apply(B | 100, state(tree.version(B | 107, "One", a | 100)))
    assert tree.shown() == {B | 100: "Lost and Found: One", a | 100: "Lost and Found: One/Other"}


def test_several_versions_that_nobody_has_read_as_one_are_refused(tree: Tree) -> None:
    several = state(tree.version(B | 100), tree.version(C | 1, "Renamed"))
    with pytest.raises(InvalidArgument, match="shown"):
        tree.apply(B | 100, several._replace(shown=None))


def test_of_two_folders_of_one_name_the_later_made_has_its_id_behind_until_the_name_is_free(
    tree: Tree,
) -> None:
    tree.apply(B | 200, state(tree.version(B | 200)))
    tree.apply(B | 100, state(tree.version(B | 100)))
    assert tree.shown() == {B | 100: "IPM_SUBTREE: News", B | 200: "IPM_SUBTREE: News (c8-62626262)"}
    assert tree.state(B | 200) == state(tree.version(B | 200))
    tree.apply(B | 100, state(tree.version(B | 101, "Old news")))
    assert tree.shown() == {B | 100: "IPM_SUBTREE: Old news", B | 200: "IPM_SUBTREE: News"}
    assert check_database(tree.database, ACTOR).clean


def test_no_folder_beside_one_is_read_but_those_that_may_wait_for_its_name(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change, or the deletion, of all folders in one place would read each of them for each."""
    for number, name in ((100, "News"), (200, "Other"), (300, "Newsletter")):
        tree.apply(B | number, state(tree.version(B | number, name)))
    tree.apply(C | 100, state(tree.version(C | 100, "News")))
    read, record_of = set[int](), WriteTransaction.record

    def noted(txn: WriteTransaction, table: Table, key: bytes) -> Any:
        if table == Table.FOLDER:
            read.add(int.from_bytes(key, "big"))
        return record_of(txn, table, key)

    monkeypatch.setattr(WriteTransaction, "record", noted)
    tree.apply(B | 100, state(tree.version(B | 101, "News", properties={"replication priority": "low"})))
    assert not read & {B | 200, B | 300, C | 100}
    tree.apply(B | 100, state(tree.version(B | 102, "Renamed")))
    assert C | 100 in read and B | 200 not in read
    assert tree.folder(C | 100).name == "News"
    tree.apply(B | 300, state(tree.version(B | 301, "Newsletter", gone=True), context={2: 301}))
    assert B | 200 not in read


def test_a_deleted_folder_goes_and_comes_back_with_what_is_left_in_it(tree: Tree) -> None:
    tree.apply(B | 100, state(tree.version(B | 100)))
    with tree.database.transaction(ACTOR) as txn:
        messages.append(txn, B | 100, messages.prepare(tree.database.files, b"a"))
    gone = state(tree.version(C | 5, gone=True), context={2: 100, 3: 5})
    tree.apply(B | 100, gone)
    assert tree.state(B | 100) == gone
    with pytest.raises(NotFound):
        tree.folder(B | 100)
    back = state(*gone.versions, tree.version(B | 107), context={2: 107, 3: 5})
    tree.apply(B | 100, back)
    assert tree.state(B | 100) == back
    assert tree.folder(B | 100).messages_count == 1
    tree.database.finish_removals()
    assert tree.folder(B | 100).messages_count == 1
    assert check_database(tree.database, ACTOR).clean
    path = tree.database.path
    tree.database.dismount()
    for file in (path / PROPERTIES).iterdir():
        file.unlink()
    repair_database(tree.database)
    tree.database.mount()
    assert tree.state(B | 100) == back and tree.folder(B | 100).messages_count == 1


def test_other_versions_of_a_folder_are_kept_and_met_by_nobody(tree: Tree) -> None:
    wanted = state(tree.version(B | 100), tree.version(C | 1, "Renamed"))
    tree.apply(B | 100, wanted)
    assert tree.state(B | 100) == wanted and list(tree.shown()) == [B | 100]
    tree.apply(B | 100, state(tree.version(B | 102), context={2: 102, 3: 1}))
    with tree.database.read(ACTOR) as read:
        assert sum(1 for _, record in read.records(Table.FOLDER, b"", None) if record.hidden) == 0
    assert check_database(tree.database, ACTOR).clean


def test_a_store_that_has_not_joined_takes_no_folder(database: Database) -> None:
    with database.transaction(ACTOR) as txn, pytest.raises(Refused, match="joined"):
        apply_folders.apply(txn, B | 100, FolderState({2: 1}, ()))


def some_state(tree: Tree, rng: random.Random, folder_id: int, step: int) -> FolderState:
    """A state of a folder whose numbers no other folder has, later than all before."""
    held = []
    at = (folder_id & 0xFFFF) * 1000 + step * 10 + (folder_id >> COUNTER_BITS)
    for origin in rng.sample((2, 3), rng.choice((1, 1, 2))):
        number = origin << COUNTER_BITS | at
        parent_id = rng.choice([tree.root_id, tree.root_id, *IDS])
        gone = rng.random() < 0.25
        changed = (1_000_000_000_000 + step, origin)
        held.append(tree.version(number, rng.choice("xyz"), parent_id, gone=gone, changed=changed))
    return state(*held)


@pytest.mark.parametrize("seed", range(16))
def test_in_whatever_order_states_come_the_same_is_shown_in_the_end(
    open_database: OpenDatabase, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    tree = Tree(open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE))
    states: dict[int, FolderState] = {}
    for step in range(30):
        folder_id = rng.choice(IDS)
        states[folder_id] = some_state(tree, rng, folder_id, step)
        tree.apply(folder_id, states[folder_id])
        assert {each: tree.state(each) for each in states} == states
        if rng.random() < 0.1:
            tree.database.finish_removals()
    live = {each for each, held in states.items() if any(not version.gone for version in held.versions)}
    assert set(tree.shown()) == live
    assert check_database(tree.database, ACTOR).clean
    other = Tree(open_database(tmp_path / "other", kind=DatabaseKind.PUBLIC_FOLDER_STORE))
    assert other.root_id == tree.root_id
    for folder_id in rng.sample(sorted(states), len(states)):
        other.apply(folder_id, states[folder_id])
    assert {each: other.state(each) for each in states} == states
    assert other.shown().keys() == tree.shown().keys()
    assert check_database(other.database, ACTOR).clean
    assert other.shown() == tree.shown()
