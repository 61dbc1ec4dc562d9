"""Conflicts in the core: what is noticed, who is told, and that all stores end alike (K2, K6, K8)."""

from __future__ import annotations

from typing import Any

from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import applying, hierarchy, subtree, writing
from pillarbox.replication.core.effects import Notice, Report
from pillarbox.replication.core.preset import HOUR_MS
from pillarbox.replication.core.replica import Moment, Replica
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.access import FolderRights
from pillarbox.store.change_number import ChangeNumber
from pillarbox.store.hybrid_clock import Stamp

CONTACT = FolderRights.FOLDER_CONTACT | FolderRights.READ_ITEMS


class Noting(Post):
    """Stores whose reports are looked at."""

    def noted(self, notice: Notice) -> list[tuple[str, Report]]:
        return [each for each in self.reported if each[1].notice is notice]

    def contact(self, folder: ObjectId, account: str) -> None:
        self.do(
            0, lambda replica: subtree.change_rights(replica, folder, Action.ADD, account, CONTACT, ACTOR)
        )
        self.wait(HOUR_MS)


def test_a_conflict_is_noticed_once_at_each_store_and_names_contacts_and_posters() -> None:
    post = Noting("aaa")
    folder = post.folder("123")
    post.contact(folder, "carl")
    message = post.post(0, folder)
    post.wait(2_000)
    post.edit_apart(folder, message)
    post.wait(HOUR_MS)
    noted = post.noted(Notice.CONFLICT)
    assert sorted(store for store, _ in noted) == ["1", "2", "3"]
    assert {report.accounts for _, report in noted} == {("anna", "carl")}
    assert {(report.folder, report.object_id) for _, report in noted} == {(folder, message)}
    assert len({report.numbers for _, report in noted}) == 1, "all stores name the same versions"


def test_flags_that_were_set_in_two_places_are_no_conflict_that_anybody_is_told_of() -> None:
    post = Noting()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    for store in (0, 1):
        properties = {f"flag {store}": "1"}
        post.do(store, lambda replica, to=properties: flag(replica, folder, message, to))
    post.wait(HOUR_MS)
    assert len(post.messages(0, folder)[0].properties) == 2 and not post.noted(Notice.CONFLICT)


def flag(replica: Replica, folder: ObjectId, message: ObjectId, properties: dict[str, str]) -> None:
    writing.edit(replica, folder, message, ACTOR, properties=properties)


def test_an_edit_and_a_deletion_that_knew_nothing_of_each_other_leave_the_edit_and_no_conflict() -> None:
    post = Noting()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    post.do(0, lambda replica: writing.delete(replica, folder, message, ACTOR))
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"kept"))
    post.wait(HOUR_MS)
    assert [view.contents for store in (0, 1) for view in post.messages(store, folder)] == [(b"kept",)] * 2
    assert not post.noted(Notice.CONFLICT)


def test_a_name_that_was_set_in_two_places_is_a_design_conflict_and_the_last_one_counts() -> None:
    post = Noting()
    folder = post.folder()
    post.contact(folder, "carl")
    for store, name in ((0, "Berlin"), (1, "Paris")):
        post.now_ms += 10
        post.do(store, lambda replica, to=name: writing.change_folder(replica, folder, ACTOR, name=to))
    post.wait(HOUR_MS)
    read = [post.replica(store).folder(folder) for store in (0, 1)]
    assert read[0] == read[1] and read[0] is not None and read[0].name.value == "Paris"
    noted = post.noted(Notice.DESIGN_CONFLICT)
    assert sorted((store, report.folder, report.accounts) for store, report in noted) == [
        ("1", folder, ("carl",)),
        ("2", folder, ("carl",)),
    ]


def test_different_settings_of_a_folder_that_were_set_in_two_places_are_no_conflict() -> None:
    """A bulk change of permissions beside a single one: both count, entry by entry."""
    post = Noting()
    folder = post.folder()
    post.do(0, lambda replica: subtree.change_rights(replica, folder, Action.ADD, "bert", CONTACT, ACTOR))
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, properties={"rights dora": "1"}))
    post.wait(HOUR_MS)
    for store in (0, 1):
        read = post.replica(store).folder(folder)
        assert read is not None and {"rights bert", "rights dora"} <= read.properties.keys()
    assert not post.noted(Notice.DESIGN_CONFLICT)


def change(post: Post, store: int, folder: ObjectId, **changed: Any) -> None:
    """Change a folder at a store, later than all that was changed before."""
    post.now_ms += 10
    post.do(store, lambda replica: writing.change_folder(replica, folder, ACTOR, **changed))


def test_two_moves_of_a_folder_are_told_of_though_the_later_place_changed_something_else_since() -> None:
    post = Noting()
    into, folder = post.folder(), post.folder()
    post.contact(folder, "carl")
    change(post, 1, folder, parent=into)
    change(post, 0, folder, parent=TREE.system_root)
    change(post, 0, folder, properties={"rights dora": "1"})
    post.wait(HOUR_MS)
    read = post.replica(1).folder(folder)
    assert read is not None and read.parent.value == TREE.system_root
    assert sorted((store, each.accounts) for store, each in post.noted(Notice.DESIGN_CONFLICT)) == [
        ("1", ("carl",)),
        ("2", ("carl",)),
    ]


def test_a_name_that_was_set_by_who_had_seen_the_other_is_no_conflict_whatever_is_changed_beside_it() -> None:
    post = Noting()
    folder = post.folder()
    change(post, 0, folder, name="Berlin")
    post.wait(HOUR_MS)
    for store in (0, 1):
        change(post, store, folder, properties={f"rights {store}": "1"})
    post.wait(HOUR_MS)
    change(post, 0, folder, properties={"rights dora": "1"})
    change(post, 1, folder, name="Paris")
    change(post, 0, folder, properties={"rights emil": "1"})
    post.wait(HOUR_MS)
    assert not post.noted(Notice.DESIGN_CONFLICT)


def test_a_name_that_a_clock_in_2099_has_stamped_is_not_taken_for_later_than_who_had_seen_it() -> None:
    post = Noting()
    folder = post.folder()
    ahead = Moment(post.now_ms, 4_070_908_800_000)
    store = post.stores[0]
    _, effects = store.local_changes(
        lambda replica: writing.change_folder(replica, folder, ACTOR, name="Berlin"), ahead
    )
    post.put(store, effects)
    post.wait(HOUR_MS)
    change(post, 1, folder, name="Paris")
    change(post, 0, folder, properties={"rights dora": "1"})
    post.wait(HOUR_MS)
    read = post.replica(0).folder(folder)
    assert read is not None and read.name.value == "Paris" and not post.noted(Notice.DESIGN_CONFLICT)


def test_one_permission_that_was_set_in_bulk_and_alone_is_a_design_conflict() -> None:
    post = Noting()
    folder = post.folder()
    for store, rights in ((0, CONTACT), (1, FolderRights.READ_ITEMS)):
        post.now_ms += 10
        post.do(
            store,
            lambda replica, to=rights: subtree.change_rights(replica, folder, Action.ADD, "bert", to, ACTOR),
        )
    post.wait(HOUR_MS)
    read = [post.replica(store).folder(folder) for store in (0, 1)]
    assert read[0] == read[1] and read[0] is not None
    assert read[0].properties["rights bert"].value == str(int(FolderRights.READ_ITEMS))
    assert sorted(store for store, _ in post.noted(Notice.DESIGN_CONFLICT)) == ["1", "2"]


def test_contacts_of_all_folders_of_a_circle_are_told_of_it() -> None:
    post = Noting()
    one, other = post.folder(), post.folder()
    post.contact(one, "carl")
    post.contact(other, "dora")
    post.do(0, lambda replica: writing.change_folder(replica, one, ACTOR, parent=other))
    post.do(1, lambda replica: writing.change_folder(replica, other, ACTOR, parent=one))
    post.wait(HOUR_MS)
    noted = post.noted(Notice.FOLDERS_IN_CIRCLE)
    assert sorted((store, report.accounts) for store, report in noted) == [
        ("1", ("carl", "dora")),
        ("2", ("carl", "dora")),
    ]
    assert list(hierarchy.places(post.replica(0)).values()).count(TREE.lost_and_found) == 1


def test_more_than_sixteen_versions_are_all_kept_and_told_of() -> None:
    post = Noting()
    folder = post.folder()
    message = post.post(0, folder)
    post.wait(2_000)
    for count in (16, 17, 20):
        post.do(0, lambda replica, to=count: applying.take(replica, folder, message, edited(message, to)))
    assert len(post.messages(0, folder)[0].contents) == 20
    assert len(post.noted(Notice.CONFLICT)) == len(post.noted(Notice.VERSIONS_JOINED)) == 1
    post.wait(HOUR_MS)
    assert post.messages(1, folder) == post.messages(0, folder), "nothing is lost on the way"
    post.do(1, lambda replica: writing.edit(replica, folder, message, ACTOR, content=b"settled"))
    post.wait(HOUR_MS)
    assert [view.contents for store in (0, 1) for view in post.messages(store, folder)] == [(b"settled",)] * 2


def edited(message: ObjectId, count: int) -> Versions[MessageVersion]:
    """A message that was edited by so many stores that knew nothing of each other."""
    origins = [bytes([100 + k]) * 16 for k in range(count)]
    siblings = {
        ChangeNumber(origin, 7): MessageVersion(Stamp(1_800_000_000_000, k, origin), f"user {k}", bytes([k]))
        for k, origin in enumerate(origins)
    }
    return Versions({message.origin: message.counter, **dict.fromkeys(origins, 7)}, siblings)
