"""Find: criteria combine, in the whole tree or below a folder."""

from __future__ import annotations

import pytest
from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import folder_settings, organisation_folder, writing
from pillarbox.replication.core.find import Age, AgeInDays, Between, Criteria, find
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.store.access import AUTHOR, FolderRights
from pillarbox.store.change_number import CNSet

ONE, TWO = b"1" * 16, b"2" * 16
BEGAN_MS = 1_800_000_000_000


class Tree:
    """News (1), in it Sport (1, 2), in that Local news (2); and Sales (2), made two days later."""

    def __init__(self) -> None:
        self.post = Post("aa")
        self.news = self.make(TREE.root, "News", "1")
        self.sport = self.make(self.news, "Sport", "12")
        self.local = self.make(self.sport, "Local news", "2")
        self.post.now_ms += 2 * DAY_MS
        self.sales = self.make(TREE.root, "Sales", "2")
        self.permit(self.news, "carl", AUTHOR)
        self.permit(self.sales, "carl", FolderRights.READ_ITEMS)

    @property
    def replica(self) -> Replica:
        replica = self.post.replica(0)
        replica.wall_ms = self.post.now_ms
        return replica

    def make(self, parent: ObjectId, name: str, replicas: str) -> ObjectId:
        lists = {each.encode() * 16: ReplicaState.ACTIVE for each in replicas}
        made: ObjectId = self.post.do(
            0, lambda replica: writing.create_folder(replica, parent, name, lists, ACTOR)
        )
        return made

    def permit(self, folder: ObjectId, subject: str, rights: FolderRights | None) -> None:
        entry = {f"rights {subject}": folder_settings.rights_value(rights)}
        self.post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, properties=entry))

    def list_as(self, folder: ObjectId, store: bytes, state: ReplicaState) -> None:
        self.post.do(
            0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas={store: state})
        )

    def find(self, below: ObjectId | None = None, **criteria: object) -> list[str]:
        return [found.name for found in find(self.replica, Criteria(**criteria), below)]  # type: ignore[arg-type]


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_without_criteria_all_folders_are_found_by_name(tree: Tree) -> None:
    assert tree.find() == ["Local news", "News", "Sales", "Sport"]


def test_a_name_contains_a_part_in_any_case(tree: Tree) -> None:
    assert tree.find(name_contains="NEWS") == ["Local news", "News"]


def test_a_subject_has_all_of_the_rights_by_an_entry_of_its_own(tree: Tree) -> None:
    assert tree.find(subject="carl", rights=FolderRights.READ_ITEMS) == ["News", "Sales"]
    both = FolderRights.READ_ITEMS | FolderRights.CREATE_ITEMS
    assert tree.find(subject="carl", rights=both) == ["News"]
    tree.permit(tree.news, "carl", None)
    assert tree.find(subject="carl", rights=FolderRights.READ_ITEMS) == ["Sales"]
    assert tree.find(subject="bert", rights=FolderRights.READ_ITEMS) == []


def test_replicated_to_a_server_also_while_it_leaves(tree: Tree) -> None:
    assert tree.find(replicated_to=ONE) == ["News", "Sport"]
    tree.list_as(tree.sport, ONE, ReplicaState.DELETE_PENDING)
    assert tree.find(replicated_to=ONE) == ["News", "Sport"]
    tree.list_as(tree.sales, TWO, ReplicaState.REMOVED)
    assert tree.find(replicated_to=TWO) == ["Local news", "Sport"]


def test_times_of_creation_and_change(tree: Tree) -> None:
    later_ms = BEGAN_MS + DAY_MS
    assert tree.find(created=Between(0, later_ms)) == ["Local news", "News", "Sport"]
    assert tree.find(created=Between(later_ms, later_ms + 2 * DAY_MS)) == ["Sales"]
    assert tree.find(modified=Between(later_ms, later_ms + 2 * DAY_MS)) == ["News", "Sales"]
    tree.post.do(0, lambda replica: writing.change_folder(replica, tree.local, ACTOR, name="Old news"))
    assert tree.find(created=Between(0, later_ms)) == ["News", "Old news", "Sport"], "a rename makes none new"


def test_an_age_in_whole_days_from_creation(tree: Tree) -> None:
    tree.post.now_ms += DAY_MS + HOUR_MS
    assert tree.find(age=AgeInDays(Age.EXACTLY, 1)) == ["Sales"]
    assert tree.find(age=AgeInDays(Age.OLDER, 1)) == ["Local news", "News", "Sport"]
    assert tree.find(age=AgeInDays(Age.OLDER, 3)) == []
    assert tree.find(age=AgeInDays(Age.NEWER, 2)) == ["Sales"]


def test_criteria_combine(tree: Tree) -> None:
    criteria = {"name_contains": "s", "replicated_to": TWO, "age": AgeInDays(Age.OLDER, 1)}
    assert tree.find(**criteria) == ["Local news", "Sport"]
    assert tree.find(**criteria, subject="carl", rights=FolderRights.READ_ITEMS) == []


def test_below_a_folder_it_is_not_found_itself(tree: Tree) -> None:
    assert tree.find(tree.news) == ["Local news", "Sport"]
    assert tree.find(tree.news, name_contains="news") == ["Local news"]
    assert tree.find(tree.local) == []


def test_deleted_folders_and_the_organisation_are_not_found(tree: Tree) -> None:
    organisation = tree.post.organisation
    tree.post.do(0, lambda replica: organisation_folder.apply(replica, organisation, ACTOR))
    tree.post.do(0, lambda replica: writing.change_folder(replica, tree.sales, ACTOR, cleared=CNSet()))
    assert tree.find() == ["Local news", "News", "Sport"]
