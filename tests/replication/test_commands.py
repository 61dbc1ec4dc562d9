"""Operator's commands: synchronize and send again, preferred sources."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven_stores import ACTOR, TREE, Post, is_changes

from pillarbox.replication.core import commands, organisation_folder, writing
from pillarbox.replication.core.commands import Resent
from pillarbox.replication.core.preset import DAY_MS, MINUTE_MS
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.wire.messages import BackfillRequest, StatusRequest
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import NotFound, Refused

ONE, TWO, THREE = (name.encode() * 16 for name in "123")


def make(post: Post, folder: ObjectId, store: int = 0) -> ObjectId:
    made: ObjectId = post.do(store, lambda replica: writing.post(replica, folder, b"text", 100, ACTOR))
    return made


def unheard(post: Post, folder: ObjectId) -> None:
    """Let a minute pass in which no changes of a folder arrive."""
    post.wait(5_000, is_lost=lambda message: is_changes(message) and message.folder == folder)


def send(post: Post, folder: ObjectId, days: int, *targets: bytes, below: bool = False) -> Resent:
    sent: Resent = post.do(
        0,
        lambda replica: commands.send_contents(replica, folder, days, targets, with_subfolders=below),
    )
    post.carry()
    return sent


def test_synchronize_hierarchy_asks_all_others_until_each_has_answered() -> None:
    post = Post("aaa")
    post.wait(20 * MINUTE_MS)
    post.sent.clear()
    post.do(0, commands.synchronize_hierarchy)
    retry_ms = post.replica(0).preset.first_retry.same_site_ms
    post.wait(1_000, is_lost=lambda message: message.sender.database == TWO)
    post.wait(retry_ms)
    asked = [message.to for message in post.sent if isinstance(message.body, StatusRequest)]
    assert asked == [TWO, THREE, TWO]
    assert post.replica(0).state(TREE.hierarchy).awaited == frozenset()


def test_send_contents_fills_a_store_that_missed_changes() -> None:
    post = Post("aaa")
    folder = post.folder("123")
    make(post, folder)
    make(post, folder)
    unheard(post, folder)
    assert send(post, folder, 1, TWO) == Resent(1, 2)
    assert len(post.messages(1, folder)) == 2
    assert len(post.messages(2, folder)) == 0, "only the chosen stores get them"
    assert not any(isinstance(message.body, BackfillRequest) for message in post.sent)


def test_only_changes_of_the_last_days_up_to_the_last_cycle_are_sent() -> None:
    post = Post()
    folder = post.folder()
    make(post, folder)
    unheard(post, folder)
    post.wait(2 * DAY_MS, is_lost=lambda message: message.folder == folder)
    new = make(post, folder)
    unheard(post, folder)
    waits = make(post, folder)  # is not broadcast yet, and goes by itself
    assert send(post, folder, 1, TWO) == Resent(1, 1)
    objects = post.replica(1).objects
    assert list(objects.ids(folder)) == [new]
    assert send(post, folder, 3, TWO) == Resent(1, 2)
    assert objects.get(folder, waits) is None


def test_send_contents_with_subfolders_sends_each_to_the_targets_of_its_list() -> None:
    post = Post("aaa")
    top = post.folder("123")

    def below(replicas: str) -> ObjectId:
        lists = {name.encode() * 16: ReplicaState.ACTIVE for name in replicas}
        made: ObjectId = post.do(
            0, lambda replica: writing.create_folder(replica, top, "Below", lists, ACTOR)
        )
        return made

    inner, other = below("12"), below("13")
    post.wait(10_000)
    for folder in (top, inner, other):
        make(post, folder)
    post.wait(5_000, is_lost=lambda message: is_changes(message) and message.folder != TREE.hierarchy)
    assert send(post, top, 1, TWO) == Resent(1, 1)
    assert len(post.messages(1, inner)) == 0
    assert send(post, top, 1, TWO, THREE, below=True) == Resent(3, 4)
    assert [len(post.messages(1, folder)) for folder in (top, inner)] == [1, 1]
    assert [len(post.messages(2, folder)) for folder in (top, other)] == [1, 1]


def test_send_contents_is_refused_where_it_can_do_nothing() -> None:
    post = Post("aaa")
    folder = post.folder("12")
    with pytest.raises(Refused, match="3 has no replica"):
        send(post, folder, 1, THREE)
    with pytest.raises(NotFound):
        send(post, folder, 1, b"x" * 16)
    with pytest.raises(Refused, match="holds no replica"):
        post.do(2, lambda replica: commands.send_contents(replica, folder, 1, [TWO]))
    post.do(0, lambda replica: commands.stop_content(replica, ACTOR))
    with pytest.raises(Refused, match="is stopped"):
        send(post, folder, 1, TWO)


def test_send_hierarchy_brings_folders_to_a_store_that_missed_them() -> None:
    post = Post()
    made = post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.wait(10_000, is_lost=is_changes)
    assert post.replica(1).folder(made) is None
    post.do(0, lambda replica: commands.send_hierarchy(replica, 1, [TWO]))
    post.carry()
    assert post.replica(1).folder(made) is not None


def test_a_preferred_source_is_asked_before_a_cheaper_one() -> None:
    post = Post("aab")
    organisation = replace(post.organisation, sites=("a", "b"))
    post.do(0, lambda replica: organisation_folder.apply(replica, organisation, ACTOR))
    folder = post.folder("123")
    make(post, folder)
    post.wait(20 * MINUTE_MS)
    post.do(0, lambda replica: commands.prefer_sources(replica, TWO, [THREE], ACTOR))
    post.wait(MINUTE_MS)
    post.replica(1).state(folder).knowledge.known = CNSet()
    plan = post.stores[1].explain(folder, post.now).plan
    assert [(reason.source, reason.is_preferred, reason.cost) for reason in plan] == [
        (THREE, True, 10),
        (ONE, False, 0),
    ]
    with pytest.raises(NotFound):
        post.do(0, lambda replica: commands.prefer_sources(replica, TWO, [b"x" * 16], ACTOR))
