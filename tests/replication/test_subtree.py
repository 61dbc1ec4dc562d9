"""Manage Public Folder Settings, replaced replicas, and the migration of a server's replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes

from pillarbox.replication.core import folder_settings, migration, subtree, writing
from pillarbox.replication.core.migration import Counts, Kind
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action, Setting
from pillarbox.replication.ground.records import Folder, ObjectId, ReplicaState
from pillarbox.replication.organisation.schedules import NEVER, Interval
from pillarbox.store.access import AUTHOR, FolderRights
from pillarbox.store.errors import NotFound, Refused

ONE, TWO, THREE = (name.encode() * 16 for name in "123")
READ = FolderRights.READ_ITEMS


class Tree:
    """News > Sport > Local, and Sales beside them; replicas at 1 and 2, of Local at 1 only."""

    def __init__(self, sites: str = "aaa") -> None:
        self.post = Post(sites)
        self.news = self.make(TREE.root, "News", "12")
        self.sport = self.make(self.news, "Sport", "12")
        self.local = self.make(self.sport, "Local", "1")
        self.sales = self.make(TREE.root, "Sales", "12")
        self.post.wait(MINUTE_MS)

    def make(self, parent: ObjectId, name: str, replicas: str) -> ObjectId:
        lists = {each.encode() * 16: ReplicaState.ACTIVE for each in replicas}
        made: ObjectId = self.do(lambda replica: writing.create_folder(replica, parent, name, lists, ACTOR))
        return made

    def do(self, change: Callable[[Replica], Any], store: int = 0) -> Any:
        return self.post.do(store, change)

    def read(self, folder: ObjectId, store: int = 0) -> Folder:
        read = self.post.replica(store).folder(folder)
        assert read is not None
        return read

    def rights(self, subject: str) -> list[FolderRights | None]:
        folders = (self.news, self.sport, self.local, self.sales)
        return [folder_settings.own_rights(self.read(folder), subject) for folder in folders]

    def active(self, folder: ObjectId, store: int = 0) -> str:
        states = self.post.replica(store).replica_states(folder)
        return "".join(
            sorted(each.decode()[0] for each, state in states.items() if state is ReplicaState.ACTIVE)
        )

    def change_rights(self, action: Action, rights: FolderRights) -> subtree.Outcome:
        outcome: subtree.Outcome = self.do(
            lambda replica: subtree.change_rights(replica, self.news, action, "carl", rights, ACTOR)
        )
        return outcome

    def change_replicas(self, action: Action, server: bytes, by: bytes = b"") -> subtree.Outcome:
        outcome: subtree.Outcome = self.do(
            lambda replica: subtree.change_replicas(replica, self.news, action, server, ACTOR, by)
        )
        return outcome


@pytest.fixture
def tree() -> Tree:
    return Tree()


# --- permissions --------------------------------------------------------------------------------------------


def test_a_subject_is_added_replaced_and_removed_below_a_folder_only(tree: Tree) -> None:
    tree.change_rights(Action.ADD, READ)
    assert tree.rights("carl") == [READ, READ, READ, None]
    tree.change_rights(Action.ADD, FolderRights.CREATE_ITEMS)
    assert tree.rights("carl")[1] == READ | FolderRights.CREATE_ITEMS
    tree.change_rights(Action.REPLACE, FolderRights.FOLDER_VISIBLE)
    assert tree.rights("carl")[2] == FolderRights.FOLDER_VISIBLE
    tree.change_rights(Action.REMOVE, READ)
    assert tree.rights("carl") == [None] * 4


def test_folders_where_nothing_changes_spend_no_number(tree: Tree) -> None:
    assert tree.change_rights(Action.ADD, READ).changed_count == 3
    before = tree.post.replica(0).record.counter
    assert tree.change_rights(Action.ADD, READ).changed_count == 0
    assert tree.post.replica(0).record.counter == before


def test_a_bulk_change_merges_with_a_single_one_that_was_made_elsewhere(tree: Tree) -> None:
    tree.change_rights(Action.ADD, READ)
    given = {"rights bert": folder_settings.rights_value(AUTHOR)}
    tree.do(lambda replica: writing.change_folder(replica, tree.sport, ACTOR, properties=given), store=1)
    tree.post.wait(MINUTE_MS)
    for store in range(3):
        assert folder_settings.rights_of(tree.read(tree.sport, store)) == {"carl": READ, "bert": AUTHOR}


# --- replica lists ------------------------------------------------------------------------------------------


def test_a_server_is_added_and_removed_and_never_as_the_last(tree: Tree) -> None:
    assert tree.change_replicas(Action.ADD, THREE).changed_count == 3
    assert [tree.active(each) for each in (tree.news, tree.local, tree.sales)] == ["123", "13", "12"]
    tree.change_replicas(Action.REMOVE, THREE)
    tree.post.wait(HOUR_MS)
    outcome = tree.change_replicas(Action.REMOVE, ONE)
    assert outcome.changed_count == 2
    assert [(each.name, each.reason) for each in outcome.skipped] == [("Local", "it is the last replica")]
    assert [tree.active(each) for each in (tree.news, tree.sport, tree.local)] == ["2", "2", "1"]


def test_a_replaced_replica_leaves_when_the_new_one_is_complete(tree: Tree) -> None:
    for _ in range(3):
        tree.do(lambda replica: writing.post(replica, tree.sport, b"text", 100, ACTOR))
    tree.post.wait(MINUTE_MS)
    tree.change_replicas(Action.REPLACE, ONE, THREE)

    def is_filling(message: Any) -> bool:
        return message.to == THREE and message.folder == tree.sport and is_changes(message)

    tree.post.wait(HOUR_MS, is_lost=is_filling)
    assert tree.active(tree.sport) == "123", "the new one is not complete"
    assert [tree.active(each) for each in (tree.news, tree.local)] == ["23", "3"]
    tree.post.put(tree.post.stores[2], tree.post.stores[2].start(tree.post.now))
    tree.post.wait(2 * HOUR_MS)
    assert [tree.active(each) for each in (tree.news, tree.sport, tree.local)] == ["23", "23", "3"]
    assert [len(tree.post.messages(store, tree.sport)) for store in range(3)] == [0, 3, 3]
    assert tree.active(tree.sales) == "12"


def test_servers_that_are_not_in_the_tree_are_refused(tree: Tree) -> None:
    for action, by in ((Action.ADD, b""), (Action.REPLACE, ONE)):
        with pytest.raises(NotFound):
            tree.change_replicas(action, b"x" * 16, by)
    with pytest.raises(Refused):
        tree.change_replicas(Action.REPLACE, ONE, ONE)
    with pytest.raises(NotFound):
        tree.do(lambda replica: subtree.overwrite(replica, ObjectId(b"x" * 16, 9), ACTOR))


# --- overwriting --------------------------------------------------------------------------------------------


def test_all_settings_of_the_folders_below_become_those_of_the_top_one(tree: Tree) -> None:
    tree.do(lambda replica: folder_settings.set_schedule(replica, tree.news, NEVER, ACTOR))
    tree.do(lambda replica: folder_settings.set_schedule(replica, tree.sport, Interval(5), ACTOR))
    given = {"rights anna": folder_settings.rights_value(AUTHOR)}
    tree.do(lambda replica: writing.change_folder(replica, tree.news, ACTOR, properties=given))
    odd = {"rights odd": folder_settings.rights_value(READ)}
    tree.do(lambda replica: writing.change_folder(replica, tree.local, ACTOR, properties=odd))
    tree.do(lambda replica: writing.change_folder(replica, tree.news, ACTOR, replicas={ONE: _LEAVES}))
    tree.do(lambda replica: subtree.overwrite(replica, tree.news, ACTOR))
    for folder in (tree.sport, tree.local):
        read = tree.read(folder)
        assert folder_settings.own_schedule(read) == NEVER
        assert folder_settings.rights_of(read) == {"anna": AUTHOR}
        assert tree.active(folder) == "2"
    tree.post.wait(2 * HOUR_MS)
    assert [len(tree.post.replica(0).replica_states(each)) for each in (tree.sport, tree.local)] == [2, 2]
    assert tree.post.replica(1).held(tree.local) is not None
    assert tree.post.replica(0).held(tree.local) is None


_LEAVES = ReplicaState.DELETE_PENDING


def test_some_settings_may_be_overwritten_alone(tree: Tree) -> None:
    given = {"rights anna": folder_settings.rights_value(AUTHOR)}
    tree.do(lambda replica: writing.change_folder(replica, tree.news, ACTOR, properties=given))
    only = [Setting.SCHEDULE]
    tree.do(lambda replica: subtree.overwrite(replica, tree.news, ACTOR, only))
    assert folder_settings.rights_of(tree.read(tree.sport)) == {}
    assert tree.active(tree.local) == "1"


# --- migration ----------------------------------------------------------------------------------------------


def test_a_migration_reports_before_and_after_and_removes_what_is_replicated(tree: Tree) -> None:
    system = tree.make(TREE.system_root, "Free busy", "1")
    tree.do(lambda replica: writing.post(replica, tree.local, b"text", 100, ACTOR))
    tree.post.wait(MINUTE_MS)
    added = tree.do(lambda replica: migration.add(replica, ONE, THREE, ACTOR, [Kind.PUBLIC]))
    assert added.changed_count == 4
    assert added.before == {Kind.PUBLIC: Counts(on_source=4), Kind.SYSTEM: Counts(on_source=1)}
    assert added.after[Kind.PUBLIC] == Counts(on_source=4, on_target=4, on_both=4)
    early = tree.do(lambda replica: migration.remove(replica, ONE, THREE, ACTOR))
    assert early.changed_count == 0, "nothing is replicated yet"
    tree.post.wait(HOUR_MS)
    removed = tree.do(lambda replica: migration.remove(replica, ONE, THREE, ACTOR))
    assert removed.before[Kind.PUBLIC] == Counts(4, 4, 4, 4, 0)
    assert removed.after[Kind.PUBLIC] == Counts(on_target=4, leaving=4)
    tree.post.wait(HOUR_MS)
    after = migration.report(tree.post.replica(0), ONE, THREE)
    assert after == {Kind.PUBLIC: Counts(on_target=4), Kind.SYSTEM: Counts(on_source=1)}
    assert tree.active(system) == "1"
    assert len(tree.post.messages(2, tree.local)) == 1


def test_a_folder_that_the_target_holds_in_part_stays_on_the_source(tree: Tree) -> None:
    tree.do(lambda replica: writing.post(replica, tree.local, b"text", 100, ACTOR))
    tree.do(lambda replica: migration.add(replica, ONE, THREE, ACTOR))

    def is_filling(message: Any) -> bool:
        return message.folder == tree.local and is_changes(message)

    tree.post.wait(HOUR_MS, is_lost=is_filling)
    removed = tree.do(lambda replica: migration.remove(replica, ONE, THREE, ACTOR))
    assert removed.changed_count == 3
    assert tree.active(tree.local) == "13"


def test_a_migration_is_within_one_site() -> None:
    tree = Tree("aab")
    with pytest.raises(Refused, match="of one site"):
        tree.do(lambda replica: migration.add(replica, ONE, THREE, ACTOR))
    with pytest.raises(NotFound):
        tree.do(lambda replica: migration.add(replica, ONE, b"x" * 16, ACTOR))


def test_all_replicas_of_a_server_move_and_what_is_left_to_go_is_told() -> None:
    tree = Tree("aab")
    tree.do(lambda replica: writing.post(replica, tree.local, b"text", 100, ACTOR))
    tree.post.wait(MINUTE_MS)
    assert tree.do(lambda replica: migration.move_all(replica, ONE, THREE, ACTOR)) == 4
    assert tree.do(lambda replica: migration.move_all(replica, ONE, THREE, ACTOR)) == 0
    left = migration.to_go(tree.post.replica(0), ONE)
    assert (len(left.folders), left.size_bytes) == (4, 100)
    tree.post.wait(3 * HOUR_MS)
    assert migration.to_go(tree.post.replica(0), ONE) == ((), 0)
    assert [tree.active(each) for each in (tree.news, tree.sport, tree.local)] == ["23", "23", "3"]
    assert len(tree.post.messages(2, tree.local)) == 1
