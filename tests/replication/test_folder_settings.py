"""Settings of a folder: its own before its store's, merged like any property."""

from __future__ import annotations

from dataclasses import replace

from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import folder_settings, writing
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.organisation.schedules import ALWAYS, NEVER, Interval
from pillarbox.store.access import AUTHOR, FolderRights

ONE, TWO = b"1" * 16, b"2" * 16


def test_a_folder_without_a_schedule_has_that_of_each_store() -> None:
    post = Post()
    folder = post.folder()
    slow = post.organisation.servers[ONE]._replace(schedule=Interval(60))
    organisation = replace(post.organisation, servers={**post.organisation.servers, ONE: slow})
    post.put(post.stores[0], post.stores[0].organisation_changed(organisation, post.now))
    assert folder_settings.schedule_of(post.replica(0), folder) == Interval(60)
    assert folder_settings.schedule_of(post.replica(1), folder) == ALWAYS
    assert folder_settings.schedule_of(post.replica(0), TREE.hierarchy) == ALWAYS


def test_a_folder_overrides_its_stores_until_it_is_told_not_to() -> None:
    post = Post()
    folder = post.folder()
    post.do(0, lambda replica: folder_settings.set_schedule(replica, folder, NEVER, ACTOR))
    post.do(1, lambda replica: folder_settings.set_priority(replica, folder, Priority.URGENT, ACTOR))
    post.wait(10_000)
    for store in range(2):
        assert folder_settings.schedule_of(post.replica(store), folder) == NEVER
        assert folder_settings.priority_of(post.replica(store), folder) is Priority.URGENT
    post.do(0, lambda replica: folder_settings.set_schedule(replica, folder, None, ACTOR))
    post.wait(10_000)
    assert folder_settings.schedule_of(post.replica(1), folder) == ALWAYS


def test_settings_that_cannot_be_read_count_as_none() -> None:
    post = Post()
    folder = post.folder()
    odd = {folder_settings.SCHEDULE: "sometimes", folder_settings.PRIORITY: "top"}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, properties=odd))
    assert folder_settings.schedule_of(post.replica(0), folder) == ALWAYS
    assert folder_settings.priority_of(post.replica(0), folder) is Priority.NORMAL


def test_a_subject_that_was_taken_out_has_no_rights_of_its_own() -> None:
    post = Post()
    folder = post.folder()
    given = {"rights anna": folder_settings.rights_value(AUTHOR), "rights bert": "0", "rights carl": "1024"}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, properties=given))
    taken = {"rights carl": folder_settings.rights_value(None)}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, properties=taken))
    read = post.replica(0).folder(folder)
    assert read is not None
    assert folder_settings.rights_of(read) == {"anna": AUTHOR, "bert": FolderRights(0)}
