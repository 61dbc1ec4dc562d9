"""Views of a folder: status of its replicas, replication, content, deletions."""

from __future__ import annotations

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes

from pillarbox.replication.core import expiry, folder_settings, hierarchy, views, writing
from pillarbox.replication.core.explanation import explain
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.objects import Found
from pillarbox.replication.core.overview import overview
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.views import Sync
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation.schedules import Interval
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.store.access import AUTHOR, FolderRights
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import NoPermission, NotFound

ONE, TWO, THREE = (name.encode() * 16 for name in "123")


def at(post: Post, store: int) -> Replica:
    """The replica of a store, by the clock of now."""
    replica = post.replica(store)
    replica.now_ms = replica.wall_ms = post.now_ms
    return replica


def posts(post: Post, folder: ObjectId, count: int, store: int = 0) -> list[ObjectId]:
    return [
        post.do(store, lambda replica: writing.post(replica, folder, b"text", 100, ACTOR))
        for _ in range(count)
    ]


def states(post: Post, folder: ObjectId, store: int = 0) -> dict[str, Sync]:
    return {each.server: each.sync for each in views.status(at(post, store), folder)}


# --- status -------------------------------------------------------------------------------------------------


def test_replicas_that_hold_the_same_are_in_sync() -> None:
    post = Post("aab")
    folder = post.folder("123")
    posts(post, folder, 3)
    post.wait(20 * MINUTE_MS)
    assert states(post, folder) == {"1": Sync.IN_SYNC, "2": Sync.IN_SYNC, "3": Sync.IN_SYNC}
    own = views.status(at(post, 0), folder)[0]
    assert (own.database, own.site) == (ONE, "a")
    assert own.figures is not None
    assert (own.figures.items_count, own.figures.size_bytes) == (3, 300)
    assert own.figures.last_received_ms is not None


def test_a_replica_that_is_behind_says_by_how_many_items() -> None:
    post = Post()
    folder = post.folder()
    posts(post, folder, 1)
    post.wait(20 * MINUTE_MS)
    posts(post, folder, 4)
    post.wait(2_000, is_lost=is_changes)
    mine, other = views.status(at(post, 0), folder)
    assert (mine.sync, other.sync, other.lacks_count) == (Sync.IN_SYNC, Sync.NOT_IN_SYNC, 4)
    assert other.heard_ms is not None and other.heard_ms < post.now_ms
    post.wait(20 * MINUTE_MS)
    post.wait(20 * MINUTE_MS)
    assert states(post, folder) == {"1": Sync.IN_SYNC, "2": Sync.IN_SYNC}


def test_the_overview_and_the_explanation_count_the_items_that_a_replica_lacks() -> None:
    post = Post()
    folder, beside = post.folder(), post.folder("1")
    posts(post, folder, 1)
    post.wait(20 * MINUTE_MS)
    for _ in range(4):
        posts(post, beside, 10)  # their numbers lie between those of the folder
        posts(post, folder, 1)
    post.wait(2_000, is_lost=is_changes)
    of_folder = {each.folder: each for each in overview(at(post, 0)).folders}[folder]
    assert of_folder.sync is Sync.IN_SYNC
    assert [peer.lacks_count for peer in of_folder.peers] == [4]
    assert [holder.lacks_count for holder in explain(at(post, 0), folder).holders] == [4]


def test_the_overview_looks_for_a_bounded_number_of_items_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    post = Post()
    folders = [post.folder(), post.folder()]
    post.wait(20 * MINUTE_MS)
    for folder in folders:
        posts(post, folder, 4)
    post.wait(2_000, is_lost=is_changes)
    monkeypatch.setattr("pillarbox.replication.core.overview.COUNTED_IN_ALL_MAX", 4)
    monkeypatch.setattr(DictObjects, "figures", lambda objects, folder: (3, 300))
    counts = {each.folder: each.peers[0].lacks_count for each in overview(at(post, 0)).folders}
    assert sorted(counts[folder] for folder in folders) == [3, 4], "the second is bounded by what is in it"


def test_the_overview_says_that_the_own_replica_leaves() -> None:
    post = Post()
    folder = post.folder()
    posts(post, folder, 1)
    post.wait(20 * MINUTE_MS)
    lists = {ONE: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=lists))
    of_folder = {each.folder: each for each in overview(at(post, 0)).folders}[folder]
    assert of_folder.sync is Sync.DELETE_PENDING


def test_a_folder_is_not_in_sync_while_a_replica_was_not_heard_of() -> None:
    post = Post()
    folder = post.folder("1")
    post.wait(20 * MINUTE_MS)
    assert explain(at(post, 0), folder).is_in_sync
    lists = {TWO: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=lists))
    assert states(post, folder)["2"] is Sync.NOT_HEARD
    assert not explain(at(post, 0), folder).is_in_sync


def test_a_store_that_lacks_changes_says_so_of_itself() -> None:
    post = Post()
    folder = post.folder()
    posts(post, folder, 2)
    post.wait(6 * MINUTE_MS, is_lost=is_changes)  # the status came, the changes did not
    mine, _ = views.status(at(post, 1), folder)
    assert mine.sync is Sync.NOT_IN_SYNC and mine.offers_count >= 2


def test_a_replica_that_leaves_is_delete_pending_and_one_that_is_new_was_not_heard_of() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    lists = {TWO: ReplicaState.DELETE_PENDING, THREE: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=lists))
    assert states(post, folder) == {"1": Sync.IN_SYNC, "2": Sync.DELETE_PENDING, "3": Sync.NOT_HEARD}
    post.wait(20 * MINUTE_MS)
    assert states(post, folder) == {"1": Sync.IN_SYNC, "3": Sync.IN_SYNC}


def figures(post: Post, folder: ObjectId, store: int = 0) -> dict[str, tuple[int, int] | None]:
    """Items and size of each replica, as a store knows them."""
    return {
        each.server: each.figures and (each.figures.items_count, each.figures.size_bytes)
        for each in views.status(at(post, store), folder)
    }


def in_sync(count: int) -> tuple[Post, ObjectId, list[ObjectId]]:
    """Two stores, and a folder of both with so many messages of 100 bytes."""
    post = Post()
    folder = post.folder()
    made = posts(post, folder, count)
    post.wait(20 * MINUTE_MS)
    return post, folder, made


def test_replicas_in_sync_have_the_same_figures_whichever_store_is_asked() -> None:
    post, folder, _ = in_sync(3)
    assert figures(post, folder) == figures(post, folder, store=1) == {"1": (3, 300), "2": (3, 300)}
    mine, other = views.status(at(post, 0), folder)
    assert mine.figures and mine.figures.last_received_ms is not None
    assert other.figures and other.figures.last_received_ms is None, "only its own store knows"


def test_figures_of_a_replica_are_without_what_it_lacks_or_has_in_another_version() -> None:
    post, folder, made = in_sync(3)
    posts(post, folder, 2)
    post.do(0, lambda replica: writing.edit(replica, folder, made[0], ACTOR, content=b"new", size_bytes=50))
    post.wait(2_000, is_lost=is_changes)
    assert figures(post, folder) == {"1": (5, 450), "2": (2, 200)}
    post.wait(40 * MINUTE_MS)
    assert figures(post, folder) == {"1": (5, 450), "2": (5, 450)}


def test_what_was_deleted_here_is_in_no_figure_before_others_know_of_it() -> None:
    post, folder, made = in_sync(3)
    post.do(0, lambda replica: writing.delete(replica, folder, made[0], ACTOR))
    post.wait(2_000, is_lost=is_changes)
    assert views.status(at(post, 0), folder)[1].lacks_count == 1, "the deletion"
    assert figures(post, folder) == {"1": (2, 200), "2": (2, 200)}


def test_what_a_replica_let_go_by_age_it_does_not_hold_and_does_not_lack() -> None:
    post, folder, _ = in_sync(3)
    before_ms = post.now_ms
    post.wait(MINUTE_MS)
    posts(post, folder, 1)
    post.wait(20 * MINUTE_MS)
    assert post.do(1, lambda replica: expiry.expire(replica, folder, before_ms)) == 3
    posts(post, folder, 1, store=1)  # its statement goes with it
    post.wait(20 * MINUTE_MS)
    mine, other = views.status(at(post, 0), folder)
    assert (mine.sync, other.sync, other.lacks_count) == (Sync.IN_SYNC, Sync.IN_SYNC, 0)
    assert figures(post, folder) == {"1": (5, 500), "2": (2, 200)}
    assert figures(post, folder, store=1) == {"2": (2, 200), "1": (2, 200)}, "of the items that are there"


def test_a_replica_that_was_not_heard_of_has_no_figures() -> None:
    post = Post()
    folder = post.folder("1")
    posts(post, folder, 2)
    lists = {TWO: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=lists))
    assert figures(post, folder) == {"1": (2, 200), "2": None}


def test_a_message_in_conflict_is_one_item_that_a_replica_holds_with_all_its_versions() -> None:
    post, folder, made = in_sync(2)
    post.edit_apart(folder, made[0])
    assert figures(post, folder) == {"1": (2, 100), "2": (1, 100)}, "the edit, of no bytes, is here alone"
    post.wait(40 * MINUTE_MS)
    assert len(views.content(at(post, 0), folder, ACTOR)) == 2
    assert figures(post, folder) == {"1": (2, 100), "2": (2, 100)}


def test_figures_of_the_hierarchy_are_its_folders() -> None:
    post = Post()
    post.folder()
    post.wait(20 * MINUTE_MS)
    both = figures(post, TREE.hierarchy)
    assert both["1"] == both["2"] and both["1"]
    post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "More", {}, ACTOR))
    post.carry(is_lost=lambda message: True)
    count, _ = both["1"]
    assert figures(post, TREE.hierarchy) == {"1": (count + 1, 0), "2": (count, 0)}


def test_what_several_replicas_lack_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    post = Post("aaa")
    folder = post.folder("123")
    post.wait(20 * MINUTE_MS)
    posts(post, folder, 3)
    looked, figures_found = [], DictObjects.figures_found

    def counted(objects: DictObjects, of: ObjectId, numbers: CNSet) -> Found:
        looked.append(of)
        return figures_found(objects, of, numbers)

    monkeypatch.setattr(DictObjects, "figures_found", counted)
    assert figures(post, folder) == {"1": (3, 300), "2": (0, 0), "3": (0, 0)}
    assert looked == [folder]


def test_a_store_without_a_replica_shows_the_list_and_knows_no_more() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    assert states(post, folder, store=2) == {"1": Sync.NOT_HEARD, "2": Sync.NOT_HEARD}
    assert figures(post, folder, store=2) == {"1": None, "2": None}
    with pytest.raises(NotFound):
        views.status(at(post, 2), ObjectId(b"x" * 16, 5))


# --- replication --------------------------------------------------------------------------------------------


def test_the_replication_view_says_list_schedule_priority_and_average_time() -> None:
    post = Post("ab")
    folder = post.folder()
    posts(post, folder, 1)
    post.now_ms += 200
    post.put(post.stores[0], post.stores[0].tick(post.now))
    post.now_ms += 500
    post.carry()
    view = views.replication(at(post, 1), folder)
    assert [(each.server, each.state) for each in view.replicas] == [
        ("1", ReplicaState.ACTIVE),
        ("2", ReplicaState.ACTIVE),
    ]
    assert (view.schedule, view.is_own_schedule, view.priority) == ("always", False, Priority.NORMAL)
    assert view.replicas[0].average_ms == 700
    assert view.replicas[1].average_ms is None
    post.do(0, lambda replica: folder_settings.set_schedule(replica, folder, Interval(30), ACTOR))
    view = views.replication(at(post, 0), folder)
    assert (view.schedule, view.is_own_schedule) == ("every 30 min", True)


# --- content ------------------------------------------------------------------------------------------------


def test_content_is_shown_to_who_may_read_and_to_no_administrator_without_that_right() -> None:
    post = Post()
    folder = post.folder()
    [first, second] = posts(post, folder, 2)
    post.now_ms += 1000
    post.do(0, lambda replica: writing.edit(replica, folder, first, "bert", content=b"new", size_bytes=5))
    closed = {"rights Default": folder_settings.rights_value(FolderRights.FOLDER_VISIBLE)}
    opened = {"rights anna": folder_settings.rights_value(AUTHOR)}
    assert len(views.content(at(post, 0), folder, "carl")) == 2, "Default is an Author"
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, properties={**closed, **opened}))
    items = views.content(at(post, 0), folder, "anna")
    assert [(item.object_id, item.size_bytes, item.actor) for item in items] == [
        (first, 5, "bert"),
        (second, 100, ACTOR),
    ]
    with pytest.raises(NoPermission):
        views.content(at(post, 0), folder, "administrator")


def test_a_conflict_shows_how_many_versions_it_has() -> None:
    post = Post()
    folder = post.folder()
    [message] = posts(post, folder, 1)
    post.wait(2_000)
    post.edit_apart(folder, message)
    post.wait(2_000)
    [item] = views.content(at(post, 1), folder, ACTOR)
    assert item.versions_count == 2


# --- deletions ----------------------------------------------------------------------------------------------


def test_a_deletion_says_when_and_who_at_every_store() -> None:
    post = Post()
    folder = post.folder()
    [message, _] = posts(post, folder, 2)
    post.wait(2_000)
    deleted_ms = post.now_ms
    post.do(1, lambda replica: writing.delete(replica, folder, message, "bert"))
    post.wait(2_000)
    for store in range(2):
        [deletion] = views.deletions(at(post, store), folder)
        assert deletion == (message, "", deleted_ms, "bert")


def test_deleted_folders_are_told_with_their_names() -> None:
    post = Post()
    folder = post.folder()
    deleted_ms = post.now_ms
    post.do(0, lambda replica: hierarchy.delete_folder(replica, folder, "bert"))
    post.wait(10_000)
    for store in range(2):
        assert views.deletions(at(post, store), TREE.hierarchy) == ((folder, "News", deleted_ms, "bert"),)


# --- whom clients are sent to -------------------------------------------------------------------------------


def test_a_new_replica_is_stale_until_it_is_filled_and_one_that_lags_is_not() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    posts(post, folder, 30)
    post.wait(20 * MINUTE_MS)
    assert not views.is_stale(at(post, 0), folder, TWO)
    posts(post, folder, 2)
    assert not views.is_stale(at(post, 0), folder, TWO)
    added = {THREE: ReplicaState.ACTIVE}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added))
    post.wait(10_000, is_lost=lambda message: message.folder == folder and is_changes(message))
    assert views.is_stale(at(post, 0), folder, THREE)
    post.wait(30 * MINUTE_MS)
    assert not views.is_stale(at(post, 0), folder, THREE)


def test_a_client_is_sent_to_a_replica_that_is_there_and_holds_the_folder() -> None:
    post = Post("aab")
    folder = post.folder("123")
    posts(post, folder, 3)
    post.wait(20 * MINUTE_MS)
    leaving = {ONE: ReplicaState.DELETE_PENDING}
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=leaving))
    assert views.refer(at(post, 1), folder, "anna").database == TWO
    post.wait(HOUR_MS)
    assert views.refer(at(post, 0), folder, "anna").database == TWO
    post.wait(2 * HOUR_MS, is_lost=lambda message: TWO in (message.sender.database, message.to))
    assert views.refer(at(post, 0), folder, "anna").database == THREE, "the nearer one is not there"
